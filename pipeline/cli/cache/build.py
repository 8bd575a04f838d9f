"""`tkd cache build`."""

from pathlib import Path

import click

from pipeline.cli.options import ChoiceWithHint
from pipeline.extract.config import KEEPS, BuildConfig


@click.command("build")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Prepared dataset.")
@click.option("--teacher", default="bundled", help="Teacher folder; bundled: the built-in one.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Cache to write, NAME.zarr.")
@click.option(
    "--keep",
    type=ChoiceWithHint(KEEPS, "choice"),
    default=BuildConfig.keep,
    help="Attention to keep: the rollout alone, also every layer's, or also every head's.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=BuildConfig.batch_size,
    help="Clips in a forward pass.",
)
@click.option("--bfloat16", is_flag=True, help="Run the teacher in mixed precision.")
@click.option("--force", is_flag=True, help="Replace the cache that is at --out.")
def build_command(data, teacher, out, force, **settings) -> None:
    """Stage one: run the teacher over every clip and keep where it looked. Run again to resume.

    \b
    Example:
      tkd cache build --data data/mini --out caches/mini.zarr
    """
    from pipeline.data.manifest import read_manifest
    from pipeline.extract.build import build_cache

    cache_id = build_cache(read_manifest(data), teacher, out, BuildConfig(**settings), force)
    click.echo(f"{out}: complete, cache_id {cache_id}")
