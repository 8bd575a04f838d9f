"""Training a teacher: fine-tuning a pretrained encoder, or a small one from scratch, on a manifest."""

import contextlib
import dataclasses
import functools
import logging
import shutil
from pathlib import Path

import torch
import transformers
from accelerate import PartialState
from transformers import EvalPrediction, Trainer, TrainingArguments

from cache_schema import discard
from pipeline.data.clip import SAMPLE_RATE, Clip
from pipeline.data.manifest import Manifest
from pipeline.errors import TkdError
from pipeline.lock import only_one
from pipeline.processes import in_first_process
from pipeline.tasks import METRICS, task_score
from pipeline.teacher.base import default_base, is_fresh, load_base
from pipeline.teacher.callbacks import ClassifierFirst, Curriculum, EarlyStopping, Report
from pipeline.teacher.clips import LikeLengths, TrainingClips, WholeClips, collate
from pipeline.teacher.config import TeacherConfig
from pipeline.teacher.machine import named_failures, one_gpu, require_precision
from pipeline.teacher.model import Teacher, TeacherInfo, all_finite, load_teacher, require_lengths, save_teacher
from pipeline.teacher.resume import (
    claim,
    drop_broken_checkpoints,
    epochs_if_over,
    find_best_checkpoint,
    settings_of,
)


def train_teacher(manifest: Manifest, config: TeacherConfig, out: Path, force: bool = False) -> TeacherInfo:
    """Trains a teacher and writes it to the folder `out`; run again after an interruption, it goes on.

    The best epoch by validation score (accuracy or mAP) is kept and scored once on the test split. Under torchrun every
    process calls this; the first alone writes.

    Args:
        manifest: A dataset with clips in every split.
        config: The settings.
        out: Folder to write. Until the teacher is whole, its training lives in `<out>.partial`.
        force: A teacher at `out` is replaced, once the new one is whole; an interrupted training with other settings
            is thrown away. One with the same settings goes on, forced or not.

    Raises:
        TkdError: `out` exists, an interrupted training had other settings, the base cannot be loaded, the dataset or
            this machine does not suit the settings, or the training diverged.
        OSError: the disk is full.
    """
    if out.exists() and not force:
        raise TkdError(f"{out}: already there. Train again with --force, or give another --out.")
    if out.exists() and not (out / "tkd_teacher.json").is_file():
        raise TkdError(f"{out}: not a teacher, and --force replaces only teachers. Give another --out.")
    for split in ("train", "validation", "test"):
        if not any(clip.labels for clip in manifest.split(split)):
            raise TkdError(f"{manifest.root}: no {split} clips with a label. A teacher needs all three splits.")
    require_precision(config)

    base = config.base or default_base(manifest.info.name)
    frozen = config.freeze_feature_encoder
    if frozen is None:
        frozen = base != "bundled" and not is_fresh(base)
    config = dataclasses.replace(config, base=base, freeze_feature_encoder=frozen)
    transformers.set_seed(config.seed)
    teacher = load_base(config.base, len(manifest.info.labels), config.readout, manifest.info.task)
    shortest = _shortest(teacher)
    require_lengths(manifest, shortest)
    for seconds, _ in config.crops:
        if round(seconds * SAMPLE_RATE) < shortest:
            raise TkdError(
                f"crops of {seconds:g} s: training this encoder takes {shortest / SAMPLE_RATE:g} s. Give longer ones."
            )
    processes = PartialState(cpu=not torch.accelerator.is_available())
    work = out.with_name(out.name + ".partial")
    with contextlib.ExitStack() as held:

        def take_over() -> None:
            held.enter_context(only_one(out))
            claim(work, settings_of(manifest, config, teacher, processes.num_processes), force)
            drop_broken_checkpoints(work, processes.num_processes)
            find_best_checkpoint(work)

        in_first_process(processes, take_over)
        info = _train(manifest, config, teacher, work)
        dtype = torch.float16 if config.half else torch.float32
        in_first_process(processes, lambda: _replace(teacher, info, work, out, dtype))
    return info


def _train(manifest: Manifest, config: TeacherConfig, teacher: Teacher, work: Path) -> TeacherInfo:
    trainer = _trainer(teacher, manifest, config, work)
    with named_failures(work):
        trainer.train(resume_from_checkpoint=any(work.glob("checkpoint-*")) or None)
    if not all_finite(teacher.state_dict()):
        raise TkdError(f"{work}: the training diverged: weights are NaN or infinite. Lower --learning-rate.")

    metric = METRICS[manifest.info.task]
    with named_failures(work):
        scores = trainer.evaluate(_by_length(manifest, "test"), metric_key_prefix="test")
    return TeacherInfo(
        base=_encoder_name(config.base),
        labels=manifest.info.labels,
        task=manifest.info.task,
        readout=config.readout,
        dataset=manifest.info.name,
        manifest_sha256=manifest.sha256(),
        metric=metric,
        validation=round(trainer.state.best_metric, 4),
        test=round(scores[f"test_{metric}"], 4),
        training=dataclasses.asdict(config),
    )


def _encoder_name(base: str) -> str:
    if base == "bundled":
        return load_teacher(base)[1].base  # "bundled" is that one teacher, not what was made of it
    return Path(base).name if Path(base).exists() else base


def _replace(teacher: Teacher, info: TeacherInfo, work: Path, out: Path, dtype: torch.dtype) -> None:
    whole = work / "teacher"
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir()
    with named_failures(work):
        save_teacher(teacher, info, whole, dtype)
    (work / "runs").rename(whole / "runs")  # TensorBoard's
    if out.exists():
        discard(out, out)
    whole.rename(out)
    discard(work, work)


def _shortest(teacher: Teacher) -> int:
    """Returns how many samples a training clip needs: one frame, or one mask where SpecAugment is on."""
    masked = teacher.encoder.config.mask_time_length - 1 if _masks_time(teacher) else 0
    return teacher.min_samples + masked * teacher.hop_length


def _masks_time(teacher: Teacher) -> bool:
    encoder = teacher.encoder.config
    return getattr(encoder, "apply_spec_augment", True) and encoder.mask_time_prob > 0  # as transformers asks


def _by_length(manifest: Manifest, split: str) -> WholeClips:
    """Returns a split to be scored, clips of like length beside each other."""
    return WholeClips(manifest, sorted(manifest.split(split), key=lambda clip: clip.n_samples))


class _Trainer(Trainer):
    """The library's would decode every recording once to learn its length."""

    def _get_train_sampler(self, train_dataset: TrainingClips | None = None) -> LikeLengths:
        clips = self.train_dataset if train_dataset is None else train_dataset
        return LikeLengths(clips, self.get_total_train_batch_size(self.args))


def _trainer(teacher: Teacher, manifest: Manifest, config: TeacherConfig, work: Path) -> Trainer:
    if config.freeze_feature_encoder:
        teacher.encoder.feature_extractor._freeze_parameters()  # as every `freeze_feature_encoder` of transformers does
    if not _masks_time(teacher) and hasattr(teacher.encoder, "masked_spec_embed"):
        teacher.encoder.masked_spec_embed.requires_grad_(False)  # several processes wait for every gradient
    if config.gradient_checkpointing:
        teacher.encoder.activation_checkpointing_enable({"use_reentrant": False})
    task, metric = manifest.info.task, METRICS[manifest.info.task]
    train = TrainingClips(manifest, config.seed, config.remix, teacher.needs_equal_lengths)

    def score(found: EvalPrediction) -> dict[str, float]:
        return {metric: task_score(task, torch.from_numpy(found.predictions), torch.from_numpy(found.label_ids))}

    n_crop_epochs = sum(epochs for _, epochs in config.crops)
    callbacks = [
        Curriculum(train, config.crops),
        ClassifierFirst(teacher, config.freeze_encoder_steps),
        Report(metric),
    ]
    if config.patience is not None:
        callbacks.append(EarlyStopping(metric, config.patience, n_crop_epochs))
    trainer = _Trainer(
        model=teacher,
        args=one_gpu(_arguments(teacher, manifest, config, work)),
        data_collator=functools.partial(collate, do_normalize=teacher.do_normalize),
        train_dataset=train,
        eval_dataset=_by_length(manifest, "validation"),
        compute_metrics=score,
        callbacks=callbacks,
    )
    trainer.remove_callback(transformers.PrinterCallback)
    # Its one warning here says that checkpoints of one second are sorted by number.
    logging.getLogger("transformers.trainer_utils").setLevel(logging.ERROR)
    return trainer


def _arguments(teacher: Teacher, manifest: Manifest, config: TeacherConfig, work: Path) -> TrainingArguments:
    scored: list[Clip] = [*manifest.split("validation"), *manifest.split("test")]
    one_length = len({clip.n_samples for clip in scored}) == 1
    return TrainingArguments(
        output_dir=str(work.absolute()),  # checkpoints name the best one by it
        num_train_epochs=epochs_if_over(work) or sum(epochs for _, epochs in config.crops) + config.epochs,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size if one_length or not teacher.needs_equal_lengths else 1,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup,  # below 1, a share
        weight_decay=config.weight_decay,
        bf16=config.bfloat16,
        fp16=config.float16,
        use_cpu=not torch.accelerator.is_available(),
        dataloader_num_workers=config.workers,
        # Layer drop, or a frozen encoder, leaves some without a gradient.
        ddp_find_unused_parameters=teacher.encoder.config.layerdrop > 0 or config.freeze_encoder_steps > 0,
        disable_tqdm=True,
        seed=config.seed,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        logging_nan_inf_filter=False,
        load_best_model_at_end=True,
        metric_for_best_model=METRICS[manifest.info.task],
        logging_strategy="epoch",
        report_to="tensorboard",
        remove_unused_columns=False,
        label_names=["labels"],
    )
