"""`tkd train`, also installed as `tkd-train`."""

import json
from pathlib import Path

import click

from pipeline.cli.options import ChoiceWithHint, Listed, Location, Memory, checked
from pipeline.distill.config import (
    ALIGNMENTS,
    ATTENTIONS,
    CLASS_WEIGHTS,
    COMBINATIONS,
    FIRST_FRAME,
    OPTIMIZERS,
    SCHEDULES,
    TrainConfig,
)


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
@click.option(
    "--kd-weight", type=float, default=TrainConfig.kd_weight, help="Weight of the teacher's attention; 0: none."
)
@click.option("--logit-kd", type=float, default=TrainConfig.logit_kd, help="Weight of the teacher's logits.")
@click.option(
    "--temperature", type=float, default=TrainConfig.temperature, help="Both logits are divided by it, with --logit-kd."
)
@click.option(
    "--combination",
    type=ChoiceWithHint(COMBINATIONS, "combination"),
    default=TrainConfig.combination,
    help="convex: the task gets what the weights leave of 1; additive: it gets 1.",
)
@click.option(
    "--kd-schedule",
    type=ChoiceWithHint(SCHEDULES, "schedule"),
    default=TrainConfig.kd_schedule,
    help="Over the training the weights stay, decay to 0, or rise from 0.",
)
@click.option(
    "--frame-weights",
    default=TrainConfig.frame_weights,
    help="What the teacher's attention is: rollout, layers:2,3, heads:3.0,3.2 (LAYER.HEAD), layers:all, heads:all, "
    "learned; or a control: uniform, shuffled, event.",
)
@click.option(
    "--first-frame",
    type=ChoiceWithHint(FIRST_FRAME, "choice"),
    default=TrainConfig.first_frame,
    help="drop or keep the rollout's first entry, the readout token's own place.",
)
@click.option(
    "--attention",
    type=ChoiceWithHint(ATTENTIONS, "attention"),
    default=TrainConfig.attention,
    help="What the student's attention is: that of an added query, or its own where it has one.",
)
@click.option(
    "--alignment",
    type=ChoiceWithHint(ALIGNMENTS, "alignment"),
    default=TrainConfig.alignment,
    help="Of teacher frames to student frames: area keeps all mass, linear interpolates.",
)
@click.option("--epochs", type=int, default=TrainConfig.epochs, help="Passes over the training split.")
@click.option(
    "--patience",
    type=int,
    default=TrainConfig.patience,
    help="Stop after so many epochs without a better validation score.",
)
@click.option("--batch-size", type=int, default=TrainConfig.batch_size, help="Clips in a step.")
@click.option(
    "--optimizer",
    type=ChoiceWithHint(OPTIMIZERS, "optimizer"),
    default=TrainConfig.optimizer,
    help="AdamW, or SGD with Nesterov momentum 0.9.",
)
@click.option("--learning-rate", type=float, default=TrainConfig.learning_rate, help="Peak, after an epoch of warm-up.")
@click.option("--weight-decay", type=float, default=TrainConfig.weight_decay, help="Of all parameters.")
@click.option("--max-grad-norm", type=float, default=TrainConfig.max_grad_norm, help="Longer gradients are clipped.")
@click.option("--ema", type=float, default=TrainConfig.ema, help="Decay of the weights' moving average; 0: none.")
@click.option(
    "--class-weights",
    type=ChoiceWithHint(CLASS_WEIGHTS, "choice"),
    default=TrainConfig.class_weights,
    help="balanced: rare classes count as much as frequent ones.",
)
@click.option("--bfloat16", is_flag=True, help="Mixed precision: faster on GPUs and on CPUs that have it.")
@click.option(
    "--augment",
    type=Listed("name,...|none", str),
    default=TrainConfig.augment,
    show_default=",".join(TrainConfig.augment),
    help="Changes to the clips of every batch, in this order; none: none. docs/augmentation.md says what each does.",
)
@click.option(
    "--views/--no-views",
    default=TrainConfig.views,
    help="Of a clip that has further views in the cache, take in each epoch one at random, or always the clip itself.",
)
@click.option("--fraction", type=float, default=TrainConfig.fraction, help="Share of the training clips that is used.")
@click.option("--seed", type=int, default=TrainConfig.seed, help="Everything random is drawn from it.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: as many as there are cores]")
@click.option(
    "--memory", type=Memory(), help="What the cache may take in memory, as 2G.  [default: half of what is free]"
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Run directory.  [default: runs/DATASET-STUDENT-kdW-seedN]"
)
@click.option("--resume", is_flag=True, help="Go on with an interrupted run.")
@click.option("--force", is_flag=True, help="Start over.")
@click.option("--json", "as_json", is_flag=True, help="Print the metrics as JSON.")
def train_command(cache_path, threads, memory, out, resume, force, as_json, **settings) -> None:
    """Stage two: train a student from a cache. The teacher does not run, and the dataset is not needed.

    \b
    Example:
      tkd-train --cache caches/mini.zarr --student crnn --kd-weight 0.5
    """
    config = checked(TrainConfig, **settings)
    if resume and force:
        raise click.UsageError("--resume goes on and --force starts over: give one of them.")

    import torch
    from accelerate import PartialState

    from cache_schema import open_cache
    from pipeline.allocation import keep_freed_memory
    from pipeline.distill.augment import check_augmentations
    from pipeline.distill.naming import run_name
    from pipeline.distill.train import train
    from pipeline.processes import last_of_torchrun
    from pipeline.progress import FetchLog

    checked(check_augmentations, names=config.augment)
    keep_freed_memory()
    if threads:
        torch.set_num_threads(threads)
    cache = open_cache(cache_path, FetchLog(cache_path))
    dataset = str(cache.metadata["dataset"]["name"]).replace("/", "-")  # a name, and no way out of runs
    out = out or Path("runs") / f"{dataset}-{run_name(config)}"
    with last_of_torchrun():
        try:
            metrics = train(cache, config, out, resume, force, memory)
        except KeyboardInterrupt:
            click.echo(f"{out}: interrupted. To go on: the same command with --resume.", err=True)
            raise
        first = PartialState().is_main_process
    if not first:
        return
    if as_json:
        click.echo(json.dumps(metrics, indent=2, ensure_ascii=False))
    else:
        click.echo(summary(out, metrics))


def summary(out: Path, metrics: dict) -> str:
    """Returns what a training came to, in a few lines."""
    lines = [
        f"{out}: test {metrics['metric']} {metrics['test']:.4f}, validation {metrics['validation']:.4f} (epoch "
        f"{metrics['best_epoch']} of {metrics['epochs']}), {metrics['n_params']:,} parameters, "
        f"{metrics['seconds']:.0f} s"
    ]
    share, teacher = metrics["attention_in_event"], metrics["teacher"]
    lines.append(f"teacher: test {metrics['metric']} {teacher['test']:.4f}")
    if share is not None:
        lines.append(
            f"attention in event: {share:.2f}; the teacher's {teacher['attention_in_event']:.2f}, equal weights "
            f"{metrics['uniform_attention_in_event']:.2f}"
        )
    return "\n".join(lines)
