"""`tkd cache`: make, inspect and share caches of teacher outputs."""

import click

from pipeline.cli.cache.build import build_command
from pipeline.cli.cache.inspect import info_command, validate_command


@click.group()
def cache() -> None:
    """Build, inspect and share caches of teacher outputs."""


for command in (build_command, info_command, validate_command):
    cache.add_command(command)
