"""`tkd data`."""

import os
from pathlib import Path

import click

from pipeline.cli.options import ChoiceWithHint

DATASETS = ("mini", "synth", "folder")


@click.group()
def data() -> None:
    """Prepare datasets: manifests of clips and the audio behind them."""


@data.command("prepare")
@click.argument("name", type=ChoiceWithHint(DATASETS, "dataset"))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Dataset folder to make.")
@click.option("--root", type=click.Path(path_type=Path), help="folder: where the recordings are, one folder per label.")
@click.option("--words", help='synth: the words to spot, comma-separated, as in "hey lamp,lights out".')
@click.option("--clips", type=int, nargs=3, help="synth: about how many clips in train, validation, test.")
@click.option("--length", type=float, help="Seconds a clip. synth: 4; folder: whole recordings.")
@click.option("--snr", type=float, nargs=2, metavar="LO HI", help="synth: range of signal-to-noise ratios in dB. [0 15]")
@click.option("--seed", type=int, default=0, show_default=True, help="Everything random is drawn from it.")
@click.option("--force", is_flag=True, help="Make it again, from nothing.")
def prepare_command(name, out, root, words, clips, length, snr, seed, force) -> None:
    """Make the dataset NAME: mini (the built-in recipe), synth (your words, spoken and mixed into noise), or folder
    (your own recordings).

    \b
    Examples:
      tkd data prepare mini --out data/mini
      tkd data prepare synth --words "hey lamp,lights out" --length 2 --out data/lamp
      tkd data prepare folder --root recordings --out data/mine
    """
    from pipeline.data.prepare import prepare
    from pipeline.data.synth import MINI, SynthConfig, make_synth

    given = {"words": words, "clips": clips, "length_seconds": length, "snr_db": snr}
    given = {option: value for option, value in given.items() if value is not None}
    if "words" in given:
        given["words"] = tuple(word.strip() for word in words.split(","))
    config = MINI if name == "mini" else SynthConfig(seed=seed, **given)
    if name == "mini" and (given or seed):
        raise click.UsageError("mini is a fixed recipe. Use synth to choose words, clips, length, SNR or seed.")
    manifest = prepare(out, config.recipe(), lambda work: make_synth(work, config, os.cpu_count() or 1), force)
    counts = ", ".join(f"{len(manifest.split(split))} {split}" for split in ("train", "validation", "test"))
    click.echo(f"{out}: {manifest.info.name}, {len(manifest.info.labels)} labels, {counts} clips")
