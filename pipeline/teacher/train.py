"""Training a teacher: fine-tuning a pretrained encoder, or a small one from scratch, on a manifest."""

import contextlib
import dataclasses
import errno
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors import SafetensorError
from transformers import Trainer, TrainerCallback, TrainingArguments

from pipeline.data.manifest import SAMPLE_RATE, Manifest
from pipeline.errors import TkdError
from pipeline.lock import only_one
from pipeline.progress import Progress, say
from pipeline.teacher.clips import TrainingClips, WholeClips, collate
from pipeline.teacher.config import TeacherConfig
from pipeline.teacher.model import Teacher, TeacherInfo, all_finite, load_base, require_lengths, save_teacher


class _Curriculum(TrainerCallback):
    """Sets the crop length and the mixing of each epoch."""

    def __init__(self, clips: TrainingClips, crops: tuple[tuple[float, int], ...]) -> None:
        self.clips = clips
        self.n_samples = [round(seconds * SAMPLE_RATE) for seconds, epochs in crops for _ in range(epochs)]

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        self.clips.epoch = round(state.epoch or 0)
        later = self.clips.epoch >= len(self.n_samples)
        self.clips.n_samples = None if later else self.n_samples[self.clips.epoch]


class _Report(TrainerCallback):
    """Progress in steps, and one line an epoch. The Trainer's own bars would print to stdout."""

    def __init__(self) -> None:
        self.shown = contextlib.ExitStack()

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.steps = self.shown.enter_context(Progress("training the teacher", state.max_steps, "steps"))
        self.steps.advance(state.global_step)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.steps.advance()

    def on_train_end(self, args, state, control, **kwargs) -> None:
        self.shown.close()

    def on_evaluate(self, args, state, control, metrics, **kwargs) -> None:
        if "eval_accuracy" in metrics:
            loss = [entry["loss"] for entry in state.log_history if "loss" in entry][-1]
            accuracy = metrics["eval_accuracy"]
            epoch = f"epoch {round(state.epoch)} of {round(args.num_train_epochs)}"
            say(f"{epoch}: training loss {loss:.3f}, validation accuracy {accuracy:.4f}")


def train_teacher(manifest: Manifest, config: TeacherConfig, out: Path, force: bool = False) -> TeacherInfo:
    """Trains a teacher and writes it to the folder `out`; run again after an interruption, it goes on.

    The best epoch by validation accuracy is kept and scored once on the test split.

    Args:
        manifest: A single_label dataset with clips in every split.
        config: The settings.
        out: Folder to write. Until the teacher is whole, its training lives in `<out>.partial`.
        force: A teacher at `out` is replaced, once the new one is whole; an interrupted training with other settings
            is thrown away. One with the same settings goes on, forced or not.

    Raises:
        TkdError: `out` exists, an interrupted training had other settings, the base cannot be loaded, the dataset does
            not suit a teacher, or the training diverged.
        OSError: the disk is full.
    """
    if manifest.info.task != "single_label":
        raise TkdError(f"{manifest.root}: task {manifest.info.task}; teachers are trained on single_label datasets.")
    if out.exists() and not force:
        raise TkdError(f"{out}: already there. Train again with --force, or give another --out.")
    if out.exists() and not (out / "tkd_teacher.json").is_file():
        raise TkdError(f"{out}: not a teacher, and --force replaces only teachers. Give another --out.")
    for split in ("train", "validation", "test"):
        if not manifest.split(split):
            raise TkdError(f"{manifest.root}: no {split} clips. A teacher needs all three splits.")

    transformers.set_seed(config.seed)
    teacher = load_base(config.base, len(manifest.info.labels), config.readout)
    shortest = _shortest(teacher)
    require_lengths(manifest, shortest)
    for seconds, _ in config.crops:
        if round(seconds * SAMPLE_RATE) < shortest:
            raise TkdError(
                f"crops of {seconds:g} s: training this encoder takes {shortest / SAMPLE_RATE:g} s. Give longer ones."
            )
    with only_one(out):
        return _train(manifest, config, teacher, out, force)


def _train(manifest: Manifest, config: TeacherConfig, teacher: Teacher, out: Path, force: bool) -> TeacherInfo:
    work = out.with_name(out.name + ".partial")
    _claim(work, _settings(manifest, config, teacher), force)
    clips = TrainingClips(manifest, config.seed, config.remix)
    trainer = _trainer(teacher, clips, WholeClips(manifest, manifest.split("validation")), config, work)
    _drop_broken_checkpoints(work)
    with _full_disk_named(work):
        trainer.train(resume_from_checkpoint=any(work.glob("checkpoint-*")) or None)
    if not all_finite(teacher.state_dict()):
        raise TkdError(f"{work}: the training diverged: weights are NaN or infinite. Lower --learning-rate.")

    validation = trainer.state.best_metric
    test = trainer.evaluate(WholeClips(manifest, manifest.split("test")), metric_key_prefix="test")["test_accuracy"]
    info = TeacherInfo(
        base=Path(config.base).name if Path(config.base).exists() else config.base,
        labels=manifest.info.labels,
        task=manifest.info.task,
        readout=config.readout,
        dataset=manifest.info.name,
        manifest_sha256=manifest.sha256(),
        metric="accuracy",
        validation=round(validation, 4),
        test=round(test, 4),
        training=dataclasses.asdict(config),
    )
    whole = work / "teacher"
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir()
    with _full_disk_named(work):
        save_teacher(teacher, info, whole, torch.float16 if config.half else torch.float32)
    if out.exists():
        shutil.rmtree(out)
    whole.rename(out)
    shutil.rmtree(work)
    return info


def _shortest(teacher: Teacher) -> int:
    """Returns how many samples a training clip needs: one frame, or one mask where SpecAugment is on."""
    encoder = teacher.encoder.config
    masks = getattr(encoder, "apply_spec_augment", True) and encoder.mask_time_prob > 0  # as transformers asks
    return teacher.min_samples + (encoder.mask_time_length - 1 if masks else 0) * teacher.hop_length


def _trainer(
    teacher: Teacher, train: TrainingClips, validation: WholeClips, config: TeacherConfig, work: Path
) -> Trainer:
    n_epochs = sum(epochs for _, epochs in config.crops) + config.epochs
    n_steps = n_epochs * -(-len(train) // config.batch_size)
    arguments = TrainingArguments(
        output_dir=str(work.absolute()),  # checkpoints name the best one by it
        num_train_epochs=n_epochs,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(config.warmup * n_steps),
        weight_decay=config.weight_decay,
        bf16=config.bfloat16,
        use_cpu=not torch.accelerator.is_available(),
        disable_tqdm=True,
        seed=config.seed,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        logging_nan_inf_filter=False,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        logging_strategy="epoch",
        report_to="tensorboard",
        remove_unused_columns=False,
        label_names=["labels"],
    )
    trainer = Trainer(
        model=teacher,
        args=arguments,
        data_collator=collate,
        train_dataset=train,
        eval_dataset=validation,
        compute_metrics=lambda out: {"accuracy": float((np.argmax(out.predictions, -1) == out.label_ids).mean())},
        callbacks=[_Curriculum(train, config.crops), _Report()],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    # Its one warning here says that checkpoints of one second are sorted by number.
    logging.getLogger("transformers.trainer_utils").setLevel(logging.ERROR)
    return trainer


def _settings(manifest: Manifest, config: TeacherConfig, teacher: Teacher) -> dict:
    """Returns everything that decides what comes out, as it reads back from JSON."""
    encoder = json.loads(teacher.encoder.config.to_json_string())
    encoder.pop("transformers_version", None)
    return json.loads(json.dumps({**dataclasses.asdict(config), "dataset": manifest.sha256(), "encoder": encoder}))


def _claim(work: Path, settings: dict, force: bool) -> None:
    """Makes the working folder, or takes over the one of an interrupted training with the same settings."""
    note = work / "settings.json"
    if work.exists() and not note.exists() and any(work.iterdir()):
        raise TkdError(f"{work}: in the way, and no interrupted training. Remove it, or give another --out.")
    if note.exists():
        try:
            begun = json.loads(note.read_text(encoding="utf-8"))
        except ValueError:  # killed while it was written
            begun = {}
        differing = sorted(key for key in {**begun, **settings} if begun.get(key) != settings.get(key))
        if differing and not force:
            raise TkdError(
                f"{work}: an interrupted training with other settings: {', '.join(differing)}. "
                "Repeat those it had, or start over with --force."
            )
        if differing:
            shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(settings), encoding="utf-8")


def _drop_broken_checkpoints(work: Path) -> None:
    """The Trainer's checkpoints are not atomic; trainer_state.json is written last."""
    for checkpoint in work.glob("checkpoint-*"):
        try:
            json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            say(f"{checkpoint}: half-written, removed")
            shutil.rmtree(checkpoint)


@contextlib.contextmanager
def _full_disk_named(folder: Path) -> Iterator[None]:
    """safetensors and torch report a full disk each in a way of its own; raised is the OSError it is."""
    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        if shutil.disk_usage(folder).free < 2**20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
        raise
