"""`tkd predict`."""

from pathlib import Path

import click

from pipeline.cli.hearing import hear

_SHOWN = 3  # labels of a file


@click.command("predict")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON: of each file the probability of every label.")
def predict_command(run, files, as_json) -> None:
    """Say what the student of a complete RUN hears in recordings: its most probable labels.

    \b
    Example:
      tkd predict runs/mini-crnn-kd0.5-seed0 a.wav b.flac
    """
    from pipeline.distill.run import read_run
    from pipeline.predict import Predictor

    predictor = Predictor(read_run(run))

    def listen(waveform):
        return dict(zip(predictor.labels, predictor(waveform).tolist(), strict=True))

    def shown(found):
        best = sorted(found.items(), key=lambda item: -item[1])[:_SHOWN]
        return ", ".join(f"{label} {probability:.2f}" for label, probability in best)

    hear(files, listen, shown, as_json)
