"""`tkd predict`."""

import json
from pathlib import Path

import click

_SHOWN = 3  # labels of a file


@click.command("predict")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON: of each file the probability of every label.")
def predict_command(run, files, as_json) -> None:
    """Say what the student of a complete RUN hears in recordings: its most probable labels.

    \b
    Example:
      tkd predict runs/mini-crnn-kd0.25-seed0 a.wav b.flac
    """
    from pipeline.data.audio import read_audio
    from pipeline.distill.run import read_run
    from pipeline.errors import TkdError
    from pipeline.predict import Predictor

    predictor, found, faults = Predictor(read_run(run)), {}, 0
    for file in files:
        try:
            probabilities = predictor(read_audio(file)).tolist()
        except TkdError as error:
            faults += 1
            click.echo(str(error) if str(file) in str(error) else f"{file}: {error}", err=True)
            continue
        found[str(file)] = dict(zip(predictor.labels, probabilities, strict=True))
        if not as_json:
            best = sorted(found[str(file)].items(), key=lambda item: -item[1])[:_SHOWN]
            click.echo(f"{file}: {', '.join(f'{label} {probability:.2f}' for label, probability in best)}")
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False))
    if faults:
        raise click.ClickException(f"{faults} of {len(files)} files could not be heard.")
