"""`tkd cache info` and `validate`: what a cache holds, and what is wrong with it."""

import json

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
def validate_command(path) -> None:
    """List every fault of a cache, with its place; exit code 1 if there is one.

    \b
    Example:
      tkd cache validate caches/mini.zarr
    """
    from cache_schema import validate_cache

    problems = validate_cache(path)
    for problem in problems:
        click.echo(f"{problem.place}: {problem.text}")
    if problems:
        raise click.ClickException(f"{path}: {len(problems)} faults.")
    click.echo(f"{path}: no faults")


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
