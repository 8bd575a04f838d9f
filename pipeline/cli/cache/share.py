"""`tkd cache convert`, `pack`, `merge`, `diff`, `push` and `pull`: handing caches around."""

import json
from pathlib import Path

import click

from pipeline.cli.options import ChoiceWithHint, Location
from pipeline.extract.config import KEEPS
from pipeline.progress import Progress

_force = click.option("--force", is_flag=True, help="Replace the cache that is there.")


@click.command("convert")
@click.argument("source", type=Location())
@click.argument("destination", type=click.Path(path_type=Path))
@click.option("--keep", type=ChoiceWithHint(KEEPS, "choice"), help="Attention to keep.  [default: all of it]")
@click.option("--no-features", is_flag=True, help="Leave the features out: a detached cache.")
@_force
def convert_command(source, destination, keep, no_features, force) -> None:
    """Copy a cache into another container: .zarr, .h5 or .zip. The content, the digests and the cache_id stay.

    With --keep or --no-features the copy leaves something out, and has another cache_id.

    \b
    Example:
      tkd cache convert caches/mini.zarr caches/mini.h5
    """
    _convert(source, destination, keep, not no_features, force)


@click.command("pack")
@click.argument("source", type=Location())
@click.argument("destination", type=click.Path(path_type=Path), required=False)
@_force
def pack_command(source, destination, force) -> None:
    """Pack a cache into one .zip, which trains as it is; by default beside it.

    \b
    Example:
      tkd cache pack caches/mini.zarr
    """
    if destination is None and isinstance(source, str):
        raise click.UsageError(f"{source}: where to? Give a name in .zip.")
    destination = destination or source.with_suffix(".zip")
    if destination.suffix != ".zip":
        raise click.UsageError(f"{destination}: a packed cache is a .zip. For others see tkd cache convert.")
    _convert(source, destination, None, True, force)


def _convert(source, destination: Path, keep, with_features: bool, force: bool) -> None:
    from cache_schema import convert_cache, open_cache

    with Progress(f"writing {destination.name}", open_cache(source).layout.n_clips, "clips") as progress:
        cache_id = convert_cache(source, destination, keep, with_features, force, progress.advance)
    click.echo(f"{destination}: complete, cache_id {cache_id}")


@click.command("merge")
@click.argument("parts", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The whole, NAME.zarr or NAME.h5.")
@_force
def merge_command(parts, out, force) -> None:
    """Put together what tkd cache build --partition i/n left on several machines. Run again, it goes on.

    \b
    Example:
      tkd cache merge part0.zarr part1.zarr --out caches/whole.zarr
    """
    from cache_schema import merge_caches

    with Progress(f"merging {out.name}", None, "clips") as progress:
        cache_id = merge_caches(parts, out, force, progress.advance)
    click.echo(f"{out}: complete, cache_id {cache_id}")


@click.command("diff")
@click.argument("first", type=Location())
@click.argument("second", type=Location())
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def diff_command(first, second, as_json) -> None:
    """Say what differs between two caches: teacher, data set, front end, rows, content.

    Exit code 1 if anything does but the software they were made with.

    \b
    Example:
      tkd cache diff caches/mini.zarr caches/theirs.zarr
    """
    from cache_schema import diff_caches

    found = diff_caches(first, second)
    if as_json:
        click.echo(json.dumps([{"place": one.place, "text": one.text} for one in found], indent=2, ensure_ascii=False))
    else:
        for difference in found:
            click.echo(f"{difference.place}: {difference.text}")
    counted = [difference for difference in found if not difference.place.startswith("software")]
    if counted:
        raise click.ClickException(f"{first} and {second} differ in {len(counted)} points.")
    if not as_json:
        click.echo("the same cache; what they note of their software differs" if found else "the same")


@click.command("push")
@click.argument("source", type=Location())
@click.argument("url")
@click.option("--no-verify", is_flag=True, help="Compare sizes only, instead of reading every file back.")
@_force
def push_command(source, url, no_verify, force) -> None:
    """Copy a cache to a URL (s3://, gs://, hf://, any of fsspec's) or a path. Run again, it goes on.

    A URL that ends in .zip or .h5 gets one file.

    \b
    Example:
      tkd cache push caches/mini.zarr s3://team/mini.zarr
    """
    from cache_schema import push_cache

    with Progress(f"pushing to {url}", None, "B") as progress:
        cache_id = push_cache(source, url, force, not no_verify, progress.advance)
    click.echo(f"{url}: complete, cache_id {cache_id}")


@click.command("pull")
@click.argument("url")
@click.argument("destination", type=click.Path(path_type=Path))
@_force
def pull_command(url, destination, force) -> None:
    """Copy a cache from a URL or path, and verify every byte that arrived. Run again, it goes on.

    \b
    Example:
      tkd cache pull s3://team/mini.zarr caches/mini.zarr
    """
    from cache_schema import pull_cache

    with Progress(f"pulling {url}", None, "B") as progress:
        cache_id = pull_cache(url, destination, force, progress.advance)
    click.echo(f"{destination}: complete, cache_id {cache_id}")
