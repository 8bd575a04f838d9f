"""`tkd export` and `tkd detect`."""

import dataclasses
import json
from pathlib import Path

import click

from pipeline.cli.hearing import hear
from pipeline.cli.options import ChoiceWithHint, FiniteRange, Location


@click.command("export")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--format", "kind", type=ChoiceWithHint(("onnx",), "format"), default="onnx", help="Of the file.")
@click.option("--int8", is_flag=True, help="Weights of 8 bits: a third of the size. Needs the cache.")
@click.option(
    "--length",
    type=FiniteRange(0, 3600, min_open=True),
    help="Seconds the model takes at once.  [default: those of the cache's longest clip]",
)
@click.option("--cache", "cache_path", type=Location(), help="A cache like the run's.  [default: the run's]")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file.  [default: RUN/model.onnx, model-int8.onnx]",
)
@click.option("--force", is_flag=True, help="Replace the file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def export_command(run, kind, int8, length, cache_path, out, force, as_json) -> None:
    """Write the student of a complete RUN as a model for a device, its front end inside.

    The ONNX graph takes samples, and gives the labels' probabilities and the student's attention. It is compared with
    the student; where the run's cache is at hand its test clips are scored.

    \b
    Example:
      tkd export runs/mini-crnn-kd0.5-seed0 --format onnx --int8
    """
    from cache_schema import CacheError, open_cache
    from pipeline.distill.run import read_run
    from pipeline.errors import TkdError
    from pipeline.export.export import clip_samples, export

    complete = read_run(run)
    try:
        cache = open_cache(cache_path or complete.config["cache"])
        complete.on(cache)
    except (CacheError, TkdError) as error:
        if cache_path or int8 or length is None:
            raise TkdError(
                f"{error} Say where a cache like the run's is with --cache, or without --int8 give --length."
            ) from error
        cache = None
    n_samples = (
        clip_samples(complete, cache) if length is None else round(length * complete.config["features"]["sample_rate"])
    )
    out = out or run / ("model-int8.onnx" if int8 else "model.onnx")
    exported = export(complete, out, n_samples, cache, int8, force)
    if as_json:
        click.echo(json.dumps({"path": str(out), **dataclasses.asdict(exported)}))
        return
    click.echo(
        f"{out}: {exported.n_bytes / 1e3:,.0f} kB, probabilities within {exported.difference:.1g} of the student's"
    )
    if exported.test is not None:
        of_run = complete.metrics["test"]
        click.echo(f"test {exported.metric} {exported.test:.4f}; the student's was {of_run:.4f}")


@click.command("detect")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--threshold", type=FiniteRange(0, 1), default=0.5, help="Least probability of what is named.")
@click.option(
    "--hop", type=FiniteRange(0.01, 3600), help="Seconds from one window to the next.  [default: a quarter of one]"
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def detect_command(model, files, threshold, hop, as_json) -> None:
    """Say what an exported MODEL hears in recordings of any length, and when.

    The model hears a recording window by window; the time is where its attention was largest.

    \b
    Example:
      tkd detect runs/mini-crnn-kd0.5-seed0/model.onnx meeting.wav
    """
    from pipeline.data.clip import SAMPLE_RATE
    from pipeline.errors import TkdError
    from pipeline.export.model import read_model

    loaded = read_model(model)
    card = loaded.card
    if card.sample_rate != SAMPLE_RATE:
        raise TkdError(
            f"{model}: takes {card.sample_rate} Hz; tkd reads recordings at {SAMPLE_RATE} Hz. Run it yourself."
        )
    hop = hop or card.n_samples / card.sample_rate / 4

    def listen(waveform):
        return [dataclasses.asdict(detection) for detection in loaded.detect(waveform, threshold, hop)]

    def shown(found):
        heard = (f"{one['seconds']:.2f} s {one['label']} {one['probability']:.2f}" for one in found)
        return ", ".join(heard) or "nothing"

    hear(files, listen, shown, as_json)
