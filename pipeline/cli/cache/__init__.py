"""`tkd cache`: make, inspect and share caches of teacher outputs."""

import click

from pipeline.cli.cache.build import attach_command, build_command
from pipeline.cli.cache.inspect import info_command, validate_command, verify_command
from pipeline.cli.cache.share import (
    convert_command,
    diff_command,
    merge_command,
    pack_command,
    pull_command,
    push_command,
)


@click.group()
def cache() -> None:
    """Build, inspect and share caches of teacher outputs."""


for command in (
    build_command,
    attach_command,
    info_command,
    validate_command,
    verify_command,
    diff_command,
    convert_command,
    pack_command,
    merge_command,
    push_command,
    pull_command,
):
    cache.add_command(command)
