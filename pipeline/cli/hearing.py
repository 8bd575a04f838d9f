"""What `tkd predict` and `tkd detect` share: recordings, one after the other, those that cannot be heard named."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import click
import numpy as np

Heard = TypeVar("Heard")


def hear(
    files: Sequence[Path], listen: Callable[[np.ndarray], Heard], shown: Callable[[Heard], str], as_json: bool
) -> None:
    """Prints what is heard in each file, a line a file as it comes, or JSON at the end.

    Args:
        files: Recordings.
        listen: Takes samples (n_samples,) float32 at SAMPLE_RATE, of 16 bits; returns what JSON can hold.
        shown: Makes a line of that.
        as_json: Print JSON, by file.

    Raises:
        ClickException: some files could not be heard; the others have been printed.
    """
    from pipeline.data.audio import read_audio, to_pcm, to_waveform
    from pipeline.errors import TkdError

    found, faults = {}, 0
    for file in files:
        try:
            found[str(file)] = listen(to_waveform(to_pcm(read_audio(file))))  # as clips are rendered
        except TkdError as error:
            faults += 1
            _say(str(error) if str(file) in str(error) else f"{file}: {error}", err=True)
            continue
        if not as_json:
            _say(f"{file}: {shown(found[str(file)])}")
    if as_json:
        _say(json.dumps(found, ensure_ascii=False))
    if faults:
        raise click.ClickException(f"{faults} of {len(files)} files could not be heard.")


def _say(text: str, err: bool = False) -> None:
    """Prints, what of a file's name is no character as \\udc.., which JSON reads, too."""
    click.echo(text.encode(errors="backslashreplace").decode(), err=err)
