"""Training one student against a cache: the loop, top to bottom."""

import contextlib
import dataclasses
import importlib.metadata
import json
import math
import sys
import time
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin, set_seed
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from cache_schema import Cache
from pipeline.arithmetic import full_float32
from pipeline.distill.augment import Axes, augment, axes_of, check_augmentations
from pipeline.distill.checkpoint import Progression, load_best, load_checkpoint, save_best, save_checkpoint
from pipeline.distill.config import TrainConfig
from pipeline.distill.data import Split, load_splits
from pipeline.distill.distillation import Distillation
from pipeline.distill.optimisation import build_optimizer, learning_rate, moving_average
from pipeline.distill.picture import attention_picture
from pipeline.distill.run import begin_run, is_complete, read_run, write_json, write_tensors
from pipeline.distill.score import score, score_teacher
from pipeline.distill.suited import require_suited
from pipeline.errors import TkdError, nearest
from pipeline.lock import only_one
from pipeline.processes import as_first_process, in_first_process
from pipeline.progress import Progress, say
from pipeline.tasks import balanced_class_weights
from students import STUDENTS, Student, count_parameters


def train(
    cache: Cache,
    config: TrainConfig,
    out: Path,
    resume: bool = False,
    force: bool = False,
    memory: int | None = None,
    student: type[Student] | None = None,
    decoded: Path | None = None,
) -> dict[str, Any]:
    """Trains a student, writes the run directory `out` and returns its metrics; a complete run resumed is returned.

    The best epoch by the task's metric on the validation split is kept; the test split is scored once, at the end.
    Under torchrun or `accelerate launch` every process calls this and takes its share of each batch; the first alone
    writes.

    Args:
        cache: A finished cache.
        config: The settings.
        out: The run directory.
        resume: Go on with an interrupted run.
        force: Start over.
        memory: Bytes the cache may take in memory, of each process, see `load_splits`; no setting, because it changes
            no result.
        student: A class of one's own; its name takes the place of `config.student`.
        decoded: Where `decoded_once` holds the cache for several trainings of this machine.

    Raises:
        TkdError: `out` is taken, the cache cannot be trained on, too little memory, or loss or logits are not finite.
        CacheError: the cache is damaged.
    """
    out = out.resolve()  # "." has a name, too, and where a link leads can be made anew
    if student is not None:
        config = dataclasses.replace(config, student=student.name)
    elif config.student not in STUDENTS:
        raise TkdError(f"no such student: {config.student}. {nearest(config.student, STUDENTS)}")
    student = student or STUDENTS[config.student]
    splits = load_splits(
        cache,
        config.first_frame == "drop",
        memory,
        views=config.views,
        frame_weights=config.frame_weights,
        fraction=config.fraction,
        seed=config.seed,
        decoded=decoded,
    )
    require_suited(cache, splits, student, config)
    check_augmentations(config.augment)
    axes = axes_of(cache.metadata) if config.augment else None
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),
        mixed_precision="no",  # this and the next: not as `accelerate config` has it, of which config.json says nothing
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
    )
    largest = min(config.batch_size, splits["train"].n_clips)
    if largest < accelerator.num_processes:
        raise TkdError(
            f"{out}: batches of {largest}, expected a clip for each of the {accelerator.num_processes} processes. "
            "Start fewer, or give a larger --batch-size or --fraction."
        )
    with contextlib.ExitStack() as held:

        def take_over() -> None:
            held.enter_context(only_one(out))
            begin_run(out, {**dataclasses.asdict(config), **describe(cache)}, resume, force)

        in_first_process(accelerator.state, take_over)
        if is_complete(out):
            return read_run(out, student).metrics
        return _train(cache, splits, axes, config, student, out, accelerator)


def _train(
    cache: Cache,
    splits: dict[str, Split],
    axes: Axes | None,
    config: TrainConfig,
    student: type[Student],
    out: Path,
    accelerator: Accelerator,
) -> dict[str, Any]:
    full_float32()
    set_seed(config.seed)
    device, first = accelerator.device, accelerator.is_main_process
    built = student(len(cache.labels), cache.layout.n_features)
    bare = Distillation(built, config, cache, _class_weights(cache, splits["train"], config)).to(device)
    averaged = moving_average(bare, config.ema) if config.ema else None
    scored = averaged.module if averaged else bare
    optimizer = build_optimizer(bare, config)
    modules = {"training": bare} | ({"average": averaged} if averaged else {})
    progression = load_checkpoint(out, modules, optimizer)
    _seed_dropout(config.seed, accelerator, progression.epoch)
    distillation, optimizer = accelerator.prepare(bare, optimizer)
    n_processes = accelerator.num_processes

    n_steps = math.ceil(splits["train"].n_clips / config.batch_size)  # an epoch
    seeds = (config.seed * config.epochs + epoch for epoch in range(progression.epoch, config.epochs))
    if first and not splits["train"].resident:
        say(f"{cache.path} is larger than the memory it may take (--memory): it is read again in each epoch.")
    started = time.monotonic() - progression.seconds
    with (
        SummaryWriter(str(out)) if first else contextlib.nullcontext() as board,
        Progress(f"training {out.name}", config.epochs * n_steps, "steps", show=first) as bar,
        closing(splits["train"].shuffled(config.batch_size, seeds)) as batches,
    ):
        bar.advance(progression.epoch * n_steps)
        for epoch in range(progression.epoch, config.epochs):
            if config.patience and epoch - progression.best_epoch >= config.patience:
                break
            distillation.train()
            sums = torch.zeros(3, device=device)
            for step, batch in enumerate(islice(batches, n_steps), epoch * n_steps):
                if config.augment:
                    batch = augment(batch, config.augment, axes, _generator(config.seed, step))
                n_clips = len(batch)
                if n_clips < n_processes:
                    continue  # at an epoch's end: not a clip for each
                batch = batch.share(accelerator.process_index, n_processes).to(device)
                losses = distillation(batch, step / (config.epochs * n_steps), n_clips / n_processes)
                if not torch.isfinite(losses.total):
                    raise TkdError(
                        f"{out}: the loss is {losses.total.item()} in epoch {epoch + 1}, step {step % n_steps + 1}, on "
                        f"clips {', '.join(batch.clip_id)}. Look at their features, or lower --learning-rate."
                    )
                optimizer.zero_grad()
                accelerator.backward(losses.total)
                accelerator.clip_grad_norm_(bare.student.parameters(), config.max_grad_norm)
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(config, step, n_steps)
                optimizer.step()
                if averaged:
                    averaged.update_parameters(bare)
                sums += losses.terms
                bar.advance()

            task, temporal, logit = (accelerator.reduce(sums, "mean") / n_steps).tolist()
            scores = score(scored, splits["validation"])
            if not torch.isfinite(scores.logits).all():  # after the last step no loss would tell
                raise TkdError(
                    f"{out}: the student's logits are not finite after epoch {epoch + 1}. Lower --learning-rate."
                )
            record = {
                "epoch": epoch + 1,
                "task_loss": task,
                "temporal_kd_loss": temporal,
                "logit_kd_loss": logit,
                "learning_rate": learning_rate(config, epoch * n_steps + n_steps - 1, n_steps),
                "validation": scores.value,
                "attention_in_event": scores.attention["in_event"],
            }
            progression = dataclasses.replace(
                progression,
                epoch=epoch + 1,
                seconds=time.monotonic() - started,
                history=[*progression.history, record],
            )
            # BatchNorm's statistics, and so the scores, are each process's own.
            better = as_first_process(accelerator.state, scores.value > progression.best)
            if better:
                progression = dataclasses.replace(progression, best=scores.value, best_epoch=epoch + 1)
            if not first:
                continue
            say(
                f"epoch {epoch + 1} of {config.epochs}: task loss {task:.3f}, KL to the teacher {temporal:.3f}, "
                f"validation {scores}"
            )
            for name, value in record.items():
                if name != "epoch" and value is not None:
                    board.add_scalar(name, value, epoch + 1)
            board.add_image("attention", attention_picture(scored, splits["validation"]), epoch + 1)
            if better:
                save_best(out, scored, epoch + 1)
            write_json(out / "history.json", progression.history)
            save_checkpoint(out, modules, optimizer, progression)

    accelerator.wait_for_everyone()
    load_best(out, scored, progression.best_epoch)
    made_with = {
        **{package: importlib.metadata.version(package) for package in ("tkd", "torch")},
        "device": torch.get_device_module(device).get_device_name(device) if device.type == "cuda" else device.type,
        "processes": n_processes,
    }
    in_first_process(
        accelerator.state, lambda: _finish(cache, config, out, scored, splits["test"], progression, made_with)
    )
    return json.loads((out / "metrics.json").read_text(encoding="utf-8"))


def describe(cache: Cache) -> dict[str, Any]:
    """Returns what a run notes of its cache: enough to use the student without it, and to know it again."""
    return {
        "cache": cache.location,
        "cache_id": cache.metadata["cache_id"],
        "labels": cache.labels,
        "features": cache.metadata["features"],
    }


def _class_weights(cache: Cache, split: Split, config: TrainConfig) -> Tensor | None:
    if config.class_weights == "none":
        return None
    return balanced_class_weights(cache.task, split.labels[split.kept], len(cache.labels))


def _generator(seed: int, step: int) -> torch.Generator:
    """Returns the source of chance of a step's augmentations: no state to keep, so that a resumed run repeats it."""
    drawn = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(drawn >> 1))


def _seed_dropout(seed: int, accelerator: Accelerator, epoch: int) -> None:
    """Gives each process dropout of its own; and a GPU that resumes, whose state is not kept, other than at first."""
    index, device = accelerator.process_index, accelerator.device
    if index or (epoch and device.type != "cpu"):
        drawn = int(np.random.SeedSequence([seed, index, epoch]).generate_state(1)[0])
        (torch if index else torch.get_device_module(device)).manual_seed(drawn)


def _finish(
    cache: Cache,
    config: TrainConfig,
    out: Path,
    scored: Distillation,
    test: Split,
    progression: Progression,
    made_with: dict[str, Any],
) -> None:
    """Scores the best epoch on the test split and writes what makes the run complete; metrics.json last."""
    scores = score(scored, test)
    teacher, uniform_share = score_teacher(test)
    metrics = {
        "student": config.student,
        "dataset": cache.metadata["dataset"]["name"],
        "cache_id": cache.metadata["cache_id"],
        "kd_weight": config.kd_weight,
        "logit_kd": config.logit_kd,
        "frame_weights": config.frame_weights,
        "seed": config.seed,
        "metric": scores.metric,
        "validation": progression.best,
        "test": scores.value,
        "n_params": count_parameters(scored.student),
        "epochs": progression.epoch,
        "best_epoch": progression.best_epoch,
        "seconds": round(progression.seconds, 1),
        "threads": torch.get_num_threads(),
        "made_with": made_with,
        "attention_in_event": scores.attention["in_event"],
        "attention": scores.attention,
        "teacher": {
            "name": cache.metadata["teacher"]["name"],
            "n_params": cache.metadata["teacher"].get("n_parameters"),
            "test": teacher.value,
            "attention_in_event": teacher.attention["in_event"],
            "attention": teacher.attention,
            "imported": "transformers" in sys.modules,
        },
        "uniform_attention_in_event": uniform_share,
    }
    write_tensors(out / "model.safetensors", scored.student.state_dict())
    write_tensors(out / "distillation.safetensors", scored.training_only())
    write_tensors(out / "test.safetensors", {"logits": scores.logits, "attention_in_event": scores.in_event})
    write_json(out / "metrics.json", metrics)
