"""`tkd teacher`."""

import dataclasses
import json
import os
from pathlib import Path

import click

from pipeline.cli.options import ChoiceWithHint, Crops, checked
from pipeline.teacher.config import READOUTS, TeacherConfig


@click.group()
def teacher() -> None:
    """Train and score teachers."""


@teacher.command("train")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Prepared dataset.")
@click.option(
    "--base",
    default=TeacherConfig.base,
    show_default="XLSR-53 for speech_commands, nscv2 and fsd50k, else bundled",
    help="Encoder to start from: bundled, small (the same, from scratch), a config.json (from scratch), a folder or a "
    "Hugging Face model name of the wav2vec 2.0 family.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Teacher folder to write.")
@click.option(
    "--readout",
    type=ChoiceWithHint(READOUTS, "readout"),
    default=TeacherConfig.readout,
    help="What is classified: the output at the first frame, or the mean over all.",
)
@click.option(
    "--crops",
    type=Crops(),
    default=TeacherConfig.crops,
    help="First, epochs on crops, as in 1.25:8,2:4.",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    default=TeacherConfig.epochs,
    help="Epochs of whole clips.",
)
@click.option(
    "--patience",
    type=click.IntRange(min=1),
    default=TeacherConfig.patience,
    help="Stop after so many epochs of whole clips without a better validation score.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=TeacherConfig.batch_size,
    help="Clips in memory together, on each GPU.",
)
@click.option(
    "--gradient-accumulation-steps",
    type=click.IntRange(min=1),
    default=TeacherConfig.gradient_accumulation_steps,
    help="Batches of one update.",
)
@click.option(
    "--learning-rate",
    type=click.FloatRange(min=0, min_open=True),
    default=TeacherConfig.learning_rate,
    help="Its peak.",
)
@click.option(
    "--remix/--no-remix",
    default=TeacherConfig.remix,
    help="Mix speech and noise afresh for every epoch.",
)
@click.option(
    "--freeze-feature-encoder/--train-feature-encoder",
    default=TeacherConfig.freeze_feature_encoder,
    show_default="frozen for a model name or a folder",
    help="The convolutions stay as they are.",
)
@click.option(
    "--freeze-encoder-steps",
    type=click.IntRange(min=0),
    default=TeacherConfig.freeze_encoder_steps,
    help="First, so many updates of the classifier alone.",
)
@click.option("--bfloat16", is_flag=True, help="Mixed precision.")
@click.option("--float16", is_flag=True, help="Mixed precision for GPUs without bfloat16.")
@click.option("--gradient-checkpointing", is_flag=True, help="Less memory, more time.")
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    default=TeacherConfig.workers,
    help="Processes that decode and mix; 0: in turn with the training.",
)
@click.option("--half", is_flag=True, help="Save the weights as float16.")
@click.option("--seed", type=click.IntRange(min=0), default=TeacherConfig.seed)
@click.option(
    "--force", is_flag=True, help="Replace the teacher at --out, and an interrupted training of other settings."
)
def train_command(data, out, force, **settings) -> None:
    """Fine-tune an encoder of the wav2vec 2.0 family, or train a small one from scratch. Run again to resume.

    \b
    Example:
      tkd teacher train --data data/mine --out teachers/mine
    """
    from pipeline.data.manifest import read_manifest
    from pipeline.processes import last_of_torchrun
    from pipeline.teacher.train import train_teacher

    config = checked(TeacherConfig, **settings)
    with last_of_torchrun():
        info = train_teacher(read_manifest(data), config, out, force)
    if os.environ.get("RANK", "0") == "0":  # torchrun's number of this process
        click.echo(f"{out}: {info.metric} {info.validation:.4f} validation, {info.test:.4f} test")


@teacher.command("evaluate")
@click.option("--teacher", "name", default="bundled", help="Teacher folder; bundled: the built-in one.")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Prepared dataset.")
@click.option(
    "--split", type=ChoiceWithHint(("train", "validation", "test"), "split"), default="test", help="To score."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evaluate_command(name, data, split, as_json) -> None:
    """Score a teacher: accuracy or mAP, and the share of its attention inside the events.

    \b
    Example:
      tkd teacher evaluate --data data/mini
    """
    from pipeline.data.manifest import read_manifest
    from pipeline.extract.evaluate import evaluate_teacher
    from pipeline.teacher.model import load_teacher, require_labels

    manifest, (loaded, info, _) = read_manifest(data), load_teacher(name)
    require_labels(info, manifest, name)
    scores = evaluate_teacher(loaded, manifest, split)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(scores)))
        return
    line = f"{split}, {scores.n_clips} clips: {scores.metric} {scores.value:.4f}"
    if scores.attention_in_event is not None:
        line += f"; attention in event {scores.attention_in_event:.3f} "
        line += f"(uniform attention: {scores.uniform_attention_in_event:.3f})"
    click.echo(line)
