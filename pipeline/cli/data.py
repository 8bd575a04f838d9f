"""`tkd data`."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from pipeline.cli.options import ChoiceWithHint, checked
from pipeline.errors import TkdError

if TYPE_CHECKING:
    from pipeline.data.manifest import Manifest


def _mini(out: Path, force: bool, length, noise_kinds) -> "Manifest":
    from pipeline.data.spoken.synth import mini

    chosen = {"length_seconds": length, "noise_kinds": _names(noise_kinds)}
    return _make_synth(out, checked(mini, **_given(chosen)), force)


def _synth(out: Path, force: bool, words, clips, length, snr, noise_kinds, seed) -> "Manifest":
    from pipeline.data.spoken.synth import SynthConfig

    chosen = {"words": _names(words), "clips": clips, "length_seconds": length, "snr_db": snr, "seed": seed}
    chosen["noise_kinds"] = _names(noise_kinds)
    return _make_synth(out, checked(SynthConfig, **_given(chosen)), force)


def _make_synth(out: Path, config, force: bool) -> "Manifest":
    from pipeline.data.prepare import prepare
    from pipeline.data.spoken.synth import make_synth

    return prepare(out, config.recipe(), lambda work: make_synth(work, config, os.cpu_count() or 1), force)


def _folder(out: Path, force: bool, root, **settings) -> "Manifest":
    from pipeline.data.own.folder import list_folder

    if root is None:
        raise click.UsageError("folder needs --root DIR: where the recordings are, one folder per label.")
    return _from_listing(out, force, lambda: list_folder(root), **settings)


def _csv(out: Path, force: bool, root, audio, **settings) -> "Manifest":
    from pipeline.data.own.table import list_csv

    if root is None:
        raise click.UsageError("csv needs --root FILE: the table that lists the recordings, .csv or .jsonl.")
    return _from_listing(out, force, lambda: list_csv(root, audio), **settings)


def _audiofolder(out: Path, force: bool, root, **settings) -> "Manifest":
    from pipeline.data.own.audiofolder import list_audiofolder

    if root is None:
        raise click.UsageError("audiofolder needs --root DIR: the folder laid out as for datasets' AudioFolder.")
    return _from_listing(out, force, lambda: list_audiofolder(root), **settings)


def _from_listing(out: Path, force: bool, list_recordings, length, seed, strict) -> "Manifest":
    from pipeline.data.own.listing import RecordingsConfig, read_listing
    from pipeline.data.prepare import prepare

    config = checked(RecordingsConfig, length_seconds=length, seed=seed, strict=strict)
    listing = list_recordings()
    return prepare(out, listing.recipe(config), lambda _work: read_listing(listing, config), force)


def _speech_commands(out: Path, force: bool, root, **settings) -> "Manifest":
    from pipeline.data.prepare import prepare
    from pipeline.data.published.speech_commands import SpeechCommandsConfig, find_copy, read_speech_commands

    config = checked(SpeechCommandsConfig, root=_text(root), **_given(settings))
    copy = find_copy(config)
    return prepare(out, config.recipe(copy), lambda _work: read_speech_commands(copy, config), force)


def _nscv2(out: Path, force: bool, root, length, snr, noise, seed, strict) -> "Manifest":
    from pipeline.data.prepare import prepare
    from pipeline.data.published.nscv2 import Nscv2Config, make_nscv2
    from pipeline.data.published.speech_commands import find_copy

    chosen = {"length_seconds": length, "snr_db": snr, "seed": seed, "strict": strict}
    config = checked(Nscv2Config, root=_text(root), noise=_text(noise), **_given(chosen))
    config.check_noise()
    copy = find_copy(config.words())
    return prepare(out, config.recipe(copy), lambda work: make_nscv2(work, copy, config), force)


def _fsd50k(out: Path, force: bool, root, max_length, strict) -> "Manifest":
    from pipeline.data.prepare import prepare
    from pipeline.data.published.fsd50k import Fsd50kConfig, find_copy, read_fsd50k

    config = checked(Fsd50kConfig, root=_text(root), strict=strict, **_given({"max_length_seconds": max_length}))
    copy = find_copy(config)
    return prepare(out, config.recipe(copy), lambda _work: read_fsd50k(copy, config), force)


# What makes each dataset, and the options it takes beside --out and --force.
DATASETS: dict[str, tuple[Callable[..., "Manifest"], tuple[str, ...]]] = {
    "mini": (_mini, ("length", "noise_kinds")),
    "synth": (_synth, ("words", "clips", "length", "snr", "noise_kinds", "seed")),
    "speech_commands": (_speech_commands, ("root", "version", "labels", "seed", "strict")),
    "nscv2": (_nscv2, ("root", "length", "snr", "noise", "seed", "strict")),
    "fsd50k": (_fsd50k, ("root", "max_length", "strict")),
    "folder": (_folder, ("root", "length", "seed", "strict")),
    "csv": (_csv, ("root", "audio", "length", "seed", "strict")),
    "audiofolder": (_audiofolder, ("root", "length", "seed", "strict")),
}


@click.group()
def data() -> None:
    """Prepare datasets: manifests of clips and the audio behind them."""


@data.command("prepare")
@click.argument("name", type=ChoiceWithHint(DATASETS, "dataset"))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Dataset folder to make.")
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    help="Where the recordings are; csv: the table that lists them. the published sets: [downloaded]",
)
@click.option(
    "--audio", type=click.Path(path_type=Path), help="csv: what the table's paths are relative to. [its folder]"
)
@click.option("--words", help='synth: the words to spot, as in "hey lamp,lights out". [those of mini]')
@click.option(
    "--clips", type=int, nargs=3, help="synth: about how many clips in train, validation, test. [4000 600 600]"
)
@click.option("--version", type=int, help="speech_commands: 1 or 2. [2]")
@click.option("--labels", type=int, help="speech_commands: 12, or 35 for every word. [12]")
@click.option("--length", type=float, help="Seconds a clip, to 600. mini, synth, nscv2: 4; own recordings: their own.")
@click.option(
    "--max-length", type=float, help="fsd50k: of longer clips the first so many seconds are kept. [30, the most]"
)
@click.option(
    "--snr", type=float, nargs=2, metavar="LO HI", help="synth, nscv2: range of signal-to-noise ratios in dB. [0 15]"
)
@click.option(
    "--noise", type=click.Path(path_type=Path), help="nscv2: a folder of noise. [Speech Commands' background noise]"
)
@click.option(
    "--noise-kinds",
    metavar="NAMES",
    help="mini, synth: of coloured, babble, transients, hum (these four usually), rain, wind, melody, alarm.",
)
@click.option("--seed", type=int, default=0, help="Everything random is drawn from it.")
@click.option("--strict", is_flag=True, help="Stop if a recording cannot be used, instead of leaving it out.")
@click.option("--force", is_flag=True, help="Make it again, from nothing.")
@click.pass_context
def prepare_command(context, name, out, force, **options) -> None:
    """Make the dataset NAME: mini (the built-in recipe), synth (your words, spoken and mixed into noise),
    speech_commands, nscv2 (Noisy Speech Commands v2), fsd50k, or of your own recordings: folder (one folder per
    label), csv (a table), audiofolder (as Hugging Face datasets has it).

    \b
    Examples:
      tkd data prepare mini --out data/mini
      tkd data prepare synth --words "hey lamp,lights out" --length 2 --out data/lamp
      tkd data prepare nscv2 --length 8 --out data/nscv2-8s
      tkd data prepare folder --root recordings --out data/mine
      tkd data prepare csv --root clips.csv --audio recordings --length 4 --out data/mine
    """
    make, taken = DATASETS[name]
    for option in options:
        given = context.get_parameter_source(option) is not ParameterSource.DEFAULT
        if given and option not in taken:
            raise click.UsageError(f"{_flag(option)} does not go with {name}, which takes {_flags(taken)}.")
    manifest = make(out, force, **{option: options[option] for option in taken})
    counts = {split: len(manifest.split(split)) for split in ("train", "validation", "test")}
    if n_left_out := sum(len(source.get("left_out", ())) for source in manifest.info.sources):
        said = f"{n_left_out} left out, each with its reason under left_out in {out / 'dataset.json'}"
        if options["strict"]:  # the dataset was there already
            raise TkdError(f"{said}. Mend them and prepare again with --force.")
        click.echo(said, err=True)
    if options["strict"] and any(source.get("published", counts) != counts for source in manifest.info.sources):
        raise TkdError(
            f"{out}: holds other numbers of clips than published. Prepare again with --force, which says more."
        )
    listed = ", ".join(f"{count} {split}" for split, count in counts.items())
    click.echo(f"{out}: {manifest.info.name}, {len(manifest.info.labels)} labels, {listed} clips")


def _given(chosen: dict) -> dict:
    """Returns the settings given; the others have their defaults in the config."""
    return {setting: value for setting, value in chosen.items() if value is not None}


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(","))


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _flag(option: str) -> str:
    return "--" + option.replace("_", "-")


def _flags(taken: tuple[str, ...]) -> str:
    return ", ".join(map(_flag, taken))
