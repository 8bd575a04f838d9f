"""`tkd train`, also installed as `tkd-train`."""

import json
from pathlib import Path

import click

from pipeline.cli.options import ChoiceWithHint, Location, Memory, checked
from pipeline.distill.config import FIRST_FRAME, TrainConfig


def _students():
    from students import STUDENTS

    return STUDENTS


@click.command("train")
@click.option("--cache", "cache_path", type=Location(), required=True, help="Cache to train from: path or URL.")
@click.option(
    "--student",
    type=ChoiceWithHint(_students, "student"),
    default=TrainConfig.student,
    help="Network to train; tkd students lists them.",
)
@click.option("--kd-weight", type=float, default=TrainConfig.kd_weight, help="Weight of the teacher; 0: none.")
@click.option(
    "--first-frame",
    type=ChoiceWithHint(FIRST_FRAME, "choice"),
    default=TrainConfig.first_frame,
    help="drop or keep the rollout's first entry, the readout token's own place.",
)
@click.option("--epochs", type=int, default=TrainConfig.epochs, help="Passes over the training split.")
@click.option("--batch-size", type=int, default=TrainConfig.batch_size, help="Clips in a step.")
@click.option("--learning-rate", type=float, default=TrainConfig.learning_rate, help="Its peak.")
@click.option("--bfloat16", is_flag=True, help="Mixed precision: about twice as fast on CPUs that have it.")
@click.option(
    "--views/--no-views",
    default=TrainConfig.views,
    help="Of a clip that has further views in the cache, take in each epoch one at random, or always the clip itself.",
)
@click.option("--seed", type=int, default=TrainConfig.seed, help="Everything random is drawn from it.")
@click.option(
    "--memory", type=Memory(), help="What the cache may take in memory, as 2G.  [default: half of what is free]"
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Run directory.  [default: runs/DATASET-STUDENT-kdW-seedN]"
)
@click.option("--resume", is_flag=True, help="Go on with an interrupted run.")
@click.option("--force", is_flag=True, help="Start over.")
@click.option("--json", "as_json", is_flag=True, help="Print the metrics as JSON.")
def train_command(cache_path, memory, out, resume, force, as_json, **settings) -> None:
    """Stage two: train a student from a cache. The teacher does not run, and the dataset is not needed.

    \b
    Example:
      tkd-train --cache caches/mini.zarr --student crnn --kd-weight 0.25
    """
    from cache_schema import open_cache
    from pipeline.distill.train import train
    from pipeline.progress import FetchLog

    config = checked(TrainConfig, **settings)
    cache = open_cache(cache_path, FetchLog(cache_path))
    dataset = cache.metadata["dataset"]["name"]
    out = out or Path("runs") / f"{dataset}-{config.student}-kd{config.kd_weight:g}-seed{config.seed}"
    metrics = train(cache, config, out, resume, force, memory)
    if as_json:
        click.echo(json.dumps(metrics, indent=2, ensure_ascii=False))
    else:
        click.echo(
            f"{out}: test {metrics['metric']} {metrics['test']:.4f}, validation {metrics['validation']:.4f} (epoch "
            f"{metrics['best_epoch']}), {metrics['n_params']:,} parameters, {metrics['seconds']:.0f} s"
        )
