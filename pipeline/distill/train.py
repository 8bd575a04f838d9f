"""Training one student against a cache: the loop, top to bottom."""

import dataclasses
import math
import sys
import time
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from cache_schema import Cache
from pipeline.distill.checkpoint import Progression, load_best, load_checkpoint, save_best, save_checkpoint
from pipeline.distill.config import TrainConfig
from pipeline.distill.data import Clips, Split, load_splits
from pipeline.distill.losses import combined_loss, student_attention, temporal_kd_loss
from pipeline.distill.run import begin_run, is_complete, read_run, write_json, write_tensors
from pipeline.distill.score import score, score_teacher
from pipeline.errors import TkdError
from pipeline.frames import FrameGrid, align, student_grid, teacher_grid
from pipeline.lock import only_one
from pipeline.progress import Progress, say
from pipeline.tasks import task_loss
from students import StudentOutput, build_student, count_parameters


def train(
    cache: Cache,
    config: TrainConfig,
    out: Path,
    resume: bool = False,
    force: bool = False,
    memory: int | None = None,
) -> dict[str, Any]:
    """Trains a student, writes the run directory `out` and returns its metrics; a complete run resumed is returned.

    The best epoch by the task's metric on the validation split is kept; the test split is scored once, at the end.

    Args:
        cache: A finished cache.
        config: The settings.
        out: The run directory.
        resume: Go on with an interrupted run.
        force: Start over.
        memory: Bytes the cache may take in memory, see `load_splits`; no setting, because it changes no result.

    Raises:
        TkdError: `out` is taken, the cache cannot be trained on, too little memory, or the loss is not finite.
        CacheError: the cache is damaged.
    """
    splits = load_splits(cache, config.first_frame == "drop", memory, views=config.views)
    require_frames(cache, splits, config.student)
    with only_one(out):
        begin_run(out, {**dataclasses.asdict(config), **describe(cache)}, resume, force)
        return read_run(out).metrics if is_complete(out) else _train(cache, splits, config, out)


def _train(cache: Cache, splits: dict[str, Split], config: TrainConfig, out: Path) -> dict[str, Any]:
    set_seed(config.seed)
    accelerator = Accelerator()
    bare = build_student(config.student, len(cache.labels), cache.layout.n_features)
    # From zeros, which draws no random number: with and without KD a student starts and is shuffled the same.
    query = nn.Parameter(torch.zeros(bare.n_channels, device=accelerator.device))
    bare.to(accelerator.device)
    optimizer = torch.optim.AdamW([*bare.parameters(), query], config.learning_rate, weight_decay=config.weight_decay)
    progression = load_checkpoint(out, bare, query, optimizer)
    student, optimizer = accelerator.prepare(bare, optimizer)
    source, target = teacher_grid(cache.metadata), student_grid(cache.metadata, bare)

    n_steps = math.ceil(splits["train"].n_clips / config.batch_size)  # an epoch
    seeds = (config.seed * config.epochs + epoch for epoch in range(progression.epoch, config.epochs))
    if not splits["train"].resident:
        say(f"{cache.path} is larger than the memory it may take (--memory): it is read again in each epoch.")
    started = time.monotonic() - progression.seconds
    with (
        SummaryWriter(str(out)) as board,
        Progress(f"training {out.name}", config.epochs * n_steps, "steps") as bar,
        closing(splits["train"].shuffled(config.batch_size, seeds)) as batches,
    ):
        bar.advance(progression.epoch * n_steps)
        for epoch in range(progression.epoch, config.epochs):
            student.train()
            sums = torch.zeros(2, device=accelerator.device)
            for step, batch in enumerate(islice(batches, n_steps)):
                batch = batch.to(accelerator.device)
                # Not the Accelerator's mixed precision: that would also wrap the student that is scored.
                with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=config.bfloat16):
                    output = student(batch.features.float(), batch.lengths)
                task, temporal = loss_terms(cache.task, output, query, batch, source, target, config.kd_weight)
                # Without KD the query learns from detached frames: it only shows where the student could look.
                loss = combined_loss(task, temporal, config.kd_weight) if config.kd_weight else task + temporal
                if not torch.isfinite(loss):
                    raise TkdError(
                        f"{out}: the loss is {loss.item()} in epoch {epoch + 1}, step {step + 1}, on clips "
                        f"{', '.join(batch.clip_id)}. Look at their features, or lower --learning-rate."
                    )
                optimizer.zero_grad()
                accelerator.backward(loss)
                accelerator.clip_grad_norm_(student.parameters(), config.max_grad_norm)
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(config, epoch * n_steps + step, n_steps)
                optimizer.step()
                sums += torch.stack([task, temporal]).detach()
                bar.advance()

            scores = score(bare, query, splits["validation"], cache.metadata)
            task, temporal = (sums / n_steps).tolist()
            say(
                f"epoch {epoch + 1} of {config.epochs}: task loss {task:.3f}, KL to the teacher {temporal:.3f}, "
                f"validation {scores}"
            )
            board.add_scalar("train/task_loss", task, epoch + 1)
            board.add_scalar("train/temporal_kd_loss", temporal, epoch + 1)
            board.add_scalar(f"validation/{scores.metric}", scores.value, epoch + 1)
            if scores.attention_in_event is not None:
                board.add_scalar("validation/attention_in_event", scores.attention_in_event, epoch + 1)
            if scores.value > progression.best:
                progression = dataclasses.replace(progression, best=scores.value, best_epoch=epoch + 1)
                save_best(out, bare, query)
            progression = dataclasses.replace(progression, epoch=epoch + 1, seconds=time.monotonic() - started)
            save_checkpoint(out, bare, query, optimizer, progression)

    load_best(out, bare, query)
    return _finish(cache, config, out, bare, query, splits["test"], progression)


def require_frames(cache: Cache, splits: dict[str, Split], name: str) -> None:
    """Checks that a student can be trained on every clip.

    Raises:
        TkdError: the features do not suit it, or some clips have too few frames.
    """
    try:
        student = build_student(name, len(cache.labels), cache.layout.n_features)
    except ValueError as error:
        raise TkdError(f"{cache.path}: its features do not suit {name}: {error} Or use another --student.") from error
    for split in splits.values():
        short = (split.lengths < student.min_frames).numpy()
        if short.any():
            raise TkdError(
                f"{cache.path}: {short.sum()} clips have fewer than the {student.min_frames} feature frames of {name}, "
                f"{split.clip_id[short][0]} the first. Use another --student, or prepare with --length."
            )


def describe(cache: Cache) -> dict[str, Any]:
    """Returns what a run notes of its cache: enough to use the student without it, and to know it again."""
    return {
        "cache": cache.location,
        "cache_id": cache.metadata["cache_id"],
        "labels": cache.labels,
        "features": cache.metadata["features"],
    }


def loss_terms(
    task: str,
    output: StudentOutput,
    query: Tensor,
    batch: Clips,
    source: FrameGrid,
    target: FrameGrid,
    kd_weight: float,
) -> tuple[Tensor, Tensor]:
    """Returns the loss of the task (single_label or multi_label) and the temporal KD loss of a batch, float32 scalars.

    At kd_weight 0 no gradient of the second reaches the student.
    """
    frames = output.frames.float() if kd_weight else output.frames.float().detach()
    teacher = align(batch.weights, batch.weight_lengths, source, target, output.lengths, frames.shape[1])
    temporal = temporal_kd_loss(student_attention(frames, query, output.lengths), teacher)
    return task_loss(task, output.logits, batch.labels), temporal


def learning_rate(config: TrainConfig, step: int, warmup: int) -> float:
    """Returns the learning rate of a step: linear for `warmup` steps, an epoch, then a cosine to a hundredth."""
    peak, n_steps = config.learning_rate, config.epochs * warmup
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, n_steps - warmup)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def _finish(cache, config, out, student, query, test: Split, progression: Progression) -> dict[str, Any]:
    """Scores the best epoch on the test split and writes what makes the run complete; metrics.json last."""
    scores = score(student, query, test, cache.metadata)
    teacher, uniform_share = score_teacher(test, cache.metadata)
    metrics = {
        "student": config.student,
        "dataset": cache.metadata["dataset"]["name"],
        "cache_id": cache.metadata["cache_id"],
        "kd_weight": config.kd_weight,
        "logit_kd": 0.0,
        "seed": config.seed,
        "metric": scores.metric,
        "validation": progression.best,
        "test": scores.value,
        "n_params": count_parameters(student),
        "epochs": config.epochs,
        "best_epoch": progression.best_epoch,
        "seconds": round(progression.seconds, 1),
        "attention_in_event": scores.attention_in_event,
        "teacher": {
            "name": cache.metadata["teacher"]["name"],
            "n_params": cache.metadata["teacher"].get("n_parameters"),
            "test": teacher.value,
            "attention_in_event": teacher.attention_in_event,
            "imported": "transformers" in sys.modules,
        },
        "uniform_attention_in_event": uniform_share,
    }
    write_tensors(out / "model.safetensors", student.state_dict())
    write_tensors(out / "query.safetensors", {"query": query})
    write_json(out / "metrics.json", metrics)
    return metrics
