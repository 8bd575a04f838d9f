"""`tkd cache build` and `attach`: stage one, and features for a cache that came without them."""

from pathlib import Path

import click

from pipeline.cli.options import ChoiceWithHint, Location, checked
from pipeline.extract.config import KEEPS, BuildConfig, ClusterConfig, Share


class _Share(click.ParamType):
    """One of several jobs: "0/4" is the first of four."""

    name = "i/n"

    def convert(self, value, param, ctx):
        if isinstance(value, Share):
            return value
        try:
            index, n_shares = map(int, value.split("/"))
        except ValueError:
            self.fail(f"{value!r} is not i/n, as in 0/4 to 3/4", param, ctx)
        return checked(Share, index=index, n_shares=n_shares)


@click.command("build")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Prepared dataset.")
@click.option("--teacher", default="bundled", help="Teacher folder; bundled: the built-in one.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Cache to write, NAME.zarr or NAME.h5.")
@click.option(
    "--keep",
    type=ChoiceWithHint(KEEPS, "choice"),
    default=BuildConfig.keep,
    help="Attention to keep: the rollout alone, also every layer's, or also every head's.",
)
@click.option(
    "--batch-size",
    type=float,
    default=BuildConfig.batch_size,
    help="Seconds of audio in a forward pass.",
)
@click.option("--bfloat16", is_flag=True, help="Run the teacher in mixed precision.")
@click.option("--no-features", is_flag=True, help="Leave the features out: a detached cache, for tkd cache attach.")
@click.option(
    "--partition-size",
    type=click.IntRange(min=1),
    default=BuildConfig.partition_size,
    help="Clips in a partition: what an interruption costs, and what jobs share out.",
)
@click.option(
    "--views",
    type=click.IntRange(min=0),
    default=BuildConfig.views,
    help="Further renderings of each training clip to store: other noise, position, SNR and speed.",
)
@click.option("--seed", type=click.IntRange(min=0), default=BuildConfig.seed, help="Of the views.")
@click.option(
    "--partition", "share", type=_Share(), help="Do share i of n, from 0; n jobs with one --out, or with one each."
)
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    default=ClusterConfig.workers,
    help="Processes that share the work, on this machine: one for each GPU, or for a part of the cores. 0: this one.",
)
@click.option("--scheduler", metavar="ADDRESS", help="Of dask.distributed: its workers share the work.")
@click.option("--force", is_flag=True, help="Replace the cache that is at --out.")
def build_command(data, teacher, out, no_features, share, workers, scheduler, force, **settings) -> None:
    """Stage one: run the teacher over every clip and keep where it looked. Run again to resume.

    \b
    Example:
      tkd cache build --data data/mini --out caches/mini.zarr
    \b
    Two processes of this machine (docs/scale.md has clusters):
      tkd cache build --data data/mini --out caches/mini.zarr --workers 2
    \b
    Two jobs; the last to end completes the cache:
      tkd cache build --data data/mini --out caches/mini.zarr --partition 0/2 &
      tkd cache build --data data/mini --out caches/mini.zarr --partition 1/2
    """
    config = checked(BuildConfig, with_features=not no_features, **settings)
    cluster = checked(ClusterConfig, workers=workers, scheduler=scheduler) if workers or scheduler is not None else None
    from pipeline.data.manifest import read_manifest
    from pipeline.extract.build import build_cache

    built = build_cache(read_manifest(data), teacher, out, config, force, share, cluster)
    click.echo(_progress(out, built))


@click.command("attach")
@click.argument("path", metavar="CACHE", type=Location())
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Dataset prepared from your recordings.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Cache to write, NAME.zarr or NAME.h5.")
@click.option("--strict", is_flag=True, help="Look for a clip under its own clip_id only, not by its audio under any.")
@click.option("--force", is_flag=True, help="Replace the cache that is at --out.")
def attach_command(path, data, out, strict, force) -> None:
    """Add the features to a cache that came without them. Run again to resume.

    Each clip's audio must be that of the cache, to the sample; what is not is listed, and nothing is written.

    \b
    Example:
      tkd cache attach caches/detached.zarr --data data/mini --out caches/mini.zarr
    """
    from pipeline.data.manifest import read_manifest
    from pipeline.extract.attach import AudioFaults, attach_features

    try:
        built = attach_features(path, read_manifest(data), out, strict, force)
    except AudioFaults as error:
        for fault in error.faults:
            click.echo(fault)
        raise
    click.echo(_progress(out, built))


def _progress(out: Path, built) -> str:
    if built.cache_id is None:
        return (
            f"{out}: {built.n_done} of {built.n_partitions} partitions are done. Run the other shares, too: with this "
            "--out the last one completes the cache; those with an --out of their own are joined by tkd cache merge."
        )
    return f"{out}: complete{' already' if built.already else ''}, cache_id {built.cache_id}"
