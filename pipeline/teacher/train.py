"""Training a teacher: fine-tuning a pretrained encoder, or a small one from scratch, on a manifest."""

import dataclasses
import logging
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import Trainer, TrainerCallback, TrainingArguments

from pipeline.data.manifest import SAMPLE_RATE, Manifest
from pipeline.errors import TkdError
from pipeline.progress import Progress, say
from pipeline.teacher.clips import TrainingClips, WholeClips, collate
from pipeline.teacher.model import READOUTS, Teacher, TeacherInfo, load_base, save_teacher

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TeacherConfig:
    """How a teacher is trained. `crops` come first: (seconds, epochs) each; then `epochs` of whole clips."""

    base: str = "bundled"
    readout: str = "first_token"
    crops: tuple[tuple[float, int], ...] = ()
    epochs: int = 5
    batch_size: int = 32
    learning_rate: float = 3e-5
    warmup: float = 0.1  # share of all steps
    weight_decay: float = 0.01
    remix: bool = True  # mix speech and noise afresh for every epoch
    bfloat16: bool = False
    half: bool = False  # save the weights as float16
    seed: int = 0

    def __post_init__(self) -> None:
        if self.readout not in READOUTS:
            raise TkdError(f"readout {self.readout}: no such readout. Known: {', '.join(READOUTS)}.")
        if self.epochs < 1 or any(seconds <= 0 or epochs < 1 for seconds, epochs in self.crops):
            raise TkdError(f"epochs {self.epochs}, crops {self.crops}: lengths and numbers of epochs are positive.")


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
    """One line an epoch; where no bar is shown, also one now and then in between."""

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.steps = Progress("training the teacher", state.max_steps, "steps") if args.disable_tqdm else None

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if self.steps is not None:
            self.steps.advance(state.global_step - self.steps.done)

    def on_evaluate(self, args, state, control, metrics, **kwargs) -> None:
        if "eval_accuracy" in metrics:
            loss = [entry["loss"] for entry in state.log_history if "loss" in entry][-1]
            accuracy = metrics["eval_accuracy"]
            epoch = f"epoch {round(state.epoch)} of {round(args.num_train_epochs)}"
            say(f"{epoch}: training loss {loss:.3f}, validation accuracy {accuracy:.4f}")


def train_teacher(manifest: Manifest, config: TeacherConfig, out: Path, force: bool = False) -> TeacherInfo:
    """Trains a teacher and writes it to the folder `out`; run again after an interruption, it goes on.

    The best epoch by validation accuracy is kept and scored once on the test split.

    Raises:
        TkdError: `out` exists, or holds an interrupted training with other settings.
    """
    if manifest.info.task != "single_label":
        raise TkdError(f"{manifest.root}: task {manifest.info.task}; teachers are trained on single_label datasets.")
    if out.exists() and not force:
        raise TkdError(f"{out}: already there. Train again with --force, or give another --out.")
    for split in ("train", "validation", "test"):
        if not manifest.split(split):
            raise TkdError(f"{manifest.root}: no {split} clips. A teacher needs all three splits.")
    work = out.with_name(out.name + ".partial")
    _claim(work, repr(config) + manifest.sha256(), force)

    transformers.set_seed(config.seed)
    teacher = load_base(config.base, len(manifest.info.labels), config.readout)
    shortest = min(clip.n_samples for clip in manifest.clips)
    if shortest < teacher.min_samples:
        raise TkdError(
            f"{manifest.root}: a clip of {shortest} samples; one frame takes {teacher.min_samples}. Remove it."
        )
    clips = TrainingClips(manifest, config.seed, config.remix)
    trainer = _trainer(teacher, clips, WholeClips(manifest, manifest.split("validation")), config, work)
    _drop_broken_checkpoints(work)
    trainer.train(resume_from_checkpoint=any(work.glob("checkpoint-*")) or None)

    validation = trainer.state.best_metric
    test = trainer.evaluate(WholeClips(manifest, manifest.split("test")), metric_key_prefix="test")["test_accuracy"]
    info = TeacherInfo(
        base=config.base,
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
    save_teacher(teacher, info, whole, torch.float16 if config.half else torch.float32)
    if out.exists():
        shutil.rmtree(out)
    whole.rename(out)
    shutil.rmtree(work)
    return info


def _trainer(
    teacher: Teacher, train: TrainingClips, validation: WholeClips, config: TeacherConfig, work: Path
) -> Trainer:
    n_epochs = sum(epochs for _, epochs in config.crops) + config.epochs
    n_steps = n_epochs * -(-len(train) // config.batch_size)
    arguments = TrainingArguments(
        output_dir=str(work),
        num_train_epochs=n_epochs,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(config.warmup * n_steps),
        weight_decay=config.weight_decay,
        bf16=config.bfloat16,
        use_cpu=not torch.accelerator.is_available(),
        disable_tqdm=not sys.stderr.isatty(),
        seed=config.seed,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
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
    return trainer


def _claim(work: Path, settings: str, force: bool) -> None:
    note = work / "settings.txt"
    if work.exists() and (force or not note.exists()):
        shutil.rmtree(work)
    if note.exists() and note.read_text(encoding="utf-8") != settings:
        raise TkdError(
            f"{work}: an interrupted training with other settings. Repeat those, or start over with --force."
        )
    work.mkdir(parents=True, exist_ok=True)
    note.write_text(settings, encoding="utf-8")


def _drop_broken_checkpoints(work: Path) -> None:
    """The Trainer's checkpoints are not atomic; trainer_state.json is written last."""
    for checkpoint in work.glob("checkpoint-*"):
        if not (checkpoint / "trainer_state.json").exists():
            log.warning("%s is half-written and removed", checkpoint)
            shutil.rmtree(checkpoint)
