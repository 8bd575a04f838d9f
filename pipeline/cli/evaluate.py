"""`tkd evaluate`."""

import json
from pathlib import Path

import click

from pipeline.cli.options import ChoiceWithHint, Location, Memory


@click.command("evaluate")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--cache", "cache_path", type=Location(), help="Cache to score on.  [default: the run's]")
@click.option(
    "--split", type=ChoiceWithHint(("train", "validation", "test"), "split"), default="test", help="To score."
)
@click.option(
    "--memory", type=Memory(), help="What the cache may take in memory, as 2G.  [default: half of what is free]"
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evaluate_command(run, cache_path, split, memory, as_json) -> None:
    """Score the student of a complete RUN on a split of a cache.

    \b
    Example:
      tkd evaluate runs/mini-crnn-kd0.5-seed0
    """
    from cache_schema import CacheError, open_cache
    from pipeline.distill.data import load_splits
    from pipeline.distill.run import read_run
    from pipeline.distill.score import require_heard, score
    from pipeline.errors import TkdError

    complete = read_run(run)
    try:
        cache = open_cache(cache_path or complete.config["cache"])
    except CacheError as error:
        if cache_path:
            raise
        raise TkdError(f"{error} The run was trained from it: say where it is now with --cache.") from error
    distillation = complete.on(cache)
    clips = load_splits(cache, distillation.config.first_frame == "drop", memory, names=(split,))[split]
    require_heard(clips, complete.student)
    scores = score(distillation, clips)
    if as_json:
        click.echo(json.dumps({"split": split, **scores.summary()}))
    else:
        click.echo(f"{split}, {len(clips)} clips: {scores}")
