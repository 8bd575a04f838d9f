"""`tkd data`."""

import os
from pathlib import Path

import click
from click.core import ParameterSource

from pipeline.cli.options import ChoiceWithHint, checked

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
@click.option(
    "--snr", type=float, nargs=2, metavar="LO HI", help="synth: range of signal-to-noise ratios in dB. [0 15]"
)
@click.option("--seed", type=int, default=0, help="Everything random is drawn from it.")
@click.option("--strict", is_flag=True, help="folder: stop if a recording cannot be used, instead of leaving it out.")
@click.option("--force", is_flag=True, help="Make it again, from nothing.")
@click.pass_context
def prepare_command(context, name, out, root, words, clips, length, snr, seed, strict, force) -> None:
    """Make the dataset NAME: mini (the built-in recipe), synth (your words, spoken and mixed into noise), or folder
    (your own recordings).

    \b
    Examples:
      tkd data prepare mini --out data/mini
      tkd data prepare synth --words "hey lamp,lights out" --length 2 --out data/lamp
      tkd data prepare folder --root recordings --out data/mine
    """
    from pipeline.data.prepare import prepare

    allowed = {
        "mini": (),
        "synth": ("words", "clips", "length", "snr", "seed"),
        "folder": ("root", "length", "seed", "strict"),
    }
    for option in ("root", "words", "clips", "length", "snr", "seed", "strict"):
        given = context.get_parameter_source(option) is not ParameterSource.DEFAULT
        if given and option not in allowed[name]:
            raise click.UsageError(f"--{option} does not go with {name}, which takes {_options(allowed[name])}.")
    if name == "folder":
        from pipeline.data.folder import FolderConfig, read_folder

        if root is None:
            raise click.UsageError("folder needs --root DIR: where the recordings are, one folder per label.")
        config = checked(FolderConfig, root=str(root), length_seconds=length, seed=seed, strict=strict)
        manifest = prepare(out, config.recipe(), lambda _work: read_folder(config), force)
    else:
        from pipeline.data.synth import MINI, SynthConfig, make_synth

        split_words = None if words is None else tuple(word.strip() for word in words.split(","))
        chosen = {"words": split_words, "clips": clips, "length_seconds": length, "snr_db": snr, "seed": seed}
        chosen = {setting: value for setting, value in chosen.items() if value is not None}
        config = MINI if name == "mini" else checked(SynthConfig, **chosen)
        manifest = prepare(out, config.recipe(), lambda work: make_synth(work, config, os.cpu_count() or 1), force)
    counts = ", ".join(f"{len(manifest.split(split))} {split}" for split in ("train", "validation", "test"))
    click.echo(f"{out}: {manifest.info.name}, {len(manifest.info.labels)} labels, {counts} clips")


def _options(names: tuple[str, ...]) -> str:
    return ", ".join(f"--{name}" for name in names) or "no such options (it is a fixed recipe; use synth to choose)"
