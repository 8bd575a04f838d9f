"""`tkd cache info`, `validate` and `verify`: what a cache holds, and what is wrong with it."""

import dataclasses
import json
from pathlib import Path

import click

from pipeline.cli.options import Location


@click.command("info")
@click.argument("path", type=Location())
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info_command(path, as_json) -> None:
    """Say what a cache holds, by whom it was made and from what.

    \b
    Example:
      tkd cache info caches/mini.zarr
    """
    from cache_schema import describe_cache

    described = describe_cache(path)
    if as_json:
        click.echo(json.dumps(described, indent=2, ensure_ascii=False))
        return
    click.echo(_summary(described))


@click.command("validate")
@click.argument("path", type=Location())
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def validate_command(path, as_json) -> None:
    """List every fault of a cache, with its place; exit code 1 if there is one.

    \b
    Example:
      tkd cache validate caches/mini.zarr
    """
    from cache_schema import validate_cache

    problems = validate_cache(path)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(problem) for problem in problems], ensure_ascii=False))
    else:
        for problem in problems:
            click.echo(str(problem))
    if problems:
        raise click.ClickException(f"{path}: {len(problems)} faults.")
    if not as_json:
        click.echo(f"{path}: no faults")


@click.command("verify")
@click.argument("path", metavar="CACHE", type=Location())
@click.option("--teacher", default="bundled", help="Its teacher: a folder; bundled: the built-in one.")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Its dataset.")
@click.option("--clips", "n_clips", type=click.IntRange(min=1), default=32, help="Clips to run the teacher on again.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of the draw of these clips.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify_command(path, teacher, data, n_clips, seed, as_json) -> None:
    """Run the teacher again on some clips: does the cache say what it says? Exit code 1 if not.

    \b
    Example:
      tkd cache verify caches/mini.zarr --data data/mini
    """
    from cache_schema import open_cache
    from pipeline.data.manifest import read_manifest
    from pipeline.extract.verify import verify_cache

    found = verify_cache(open_cache(path), read_manifest(data), teacher, n_clips, seed)
    if as_json:
        click.echo(json.dumps({"verified": not found.problems, **dataclasses.asdict(found)}, indent=2))
    else:
        click.echo(_agreements(found))
    if found.problems:
        raise click.ClickException(f"{path}: not verified, {len(found.problems)} problems.")
    if not as_json:
        click.echo(f"{path}: verified on {found.n_clips} clips")


def _agreements(found) -> str:
    """Returns the figures as a table, and the problems below it."""
    figures = ("mean_cosine", "worst_cosine", "mean_kl", "worst_kl", "worst_difference")
    lines = [f"{'array':<18}" + "".join(f"{figure:>18}" for figure in figures)]
    for name, agreement in found.arrays.items():
        values = (getattr(agreement, figure) for figure in figures)
        lines.append(f"{name:<18}" + "".join(f"{'' if value is None else f'{value:.6g}':>18}" for value in values))
    return "\n".join(lines + found.problems)


def _summary(described: dict) -> str:
    """Returns a cache's description as a few lines and a table of its arrays."""
    teacher, dataset, features = described["teacher"], described["dataset"], described["features"]
    done, n_partitions = described["partitions_done"], described["n_partitions"]
    state = "complete" if described["complete"] else f"unfinished, {done} of {n_partitions} partitions"
    splits = ", ".join(f"{count} {split}" for split, count in described["splits"].items())
    lines = [
        f"{described['path']}: {state}",
        f"cache_id  {described['cache_id']}",
        f"dataset   {dataset['name']}, {dataset['task']}, {len(dataset['labels'])} labels; {splits} clips, "
        f"{described['seconds'] / 3600:.2f} h",
        *([f"views     {described['views']} further renderings of the training clips"] if described["views"] else []),
        f"teacher   {teacher['name']}, {teacher['n_layers']} layers x {teacher['n_heads']} heads, one frame per "
        f"{1000 * teacher['hop_length'] / teacher['sample_rate']:g} ms; weights {teacher['sha256'][:12]}",
        f"features  {features['kind']}, one frame per {1000 * features['hop_length'] / features['sample_rate']:g} ms",
        f"licence   {dataset['licence']}",
        f"size      {described['bytes'] / 1e6:.1f} MB in {described['files']} files",
        "",
        f"{'array':<18}{'dims':<32}{'shape':<22}{'dtype':<9}{'MB':>8}{'B/s audio':>11}",
    ]
    for name, array in described["arrays"].items():
        dims, shape = " x ".join(array["dims"]), " x ".join(map(str, array["shape"]))
        size = f"{array['bytes'] / 1e6:>8.2f}{array['bytes_per_second']:>11.1f}"
        lines.append(f"{name:<18}{dims:<32}{shape:<22}{array['dtype']:<9}{size}")
    return "\n".join(lines)
