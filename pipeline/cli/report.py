"""`tkd report`."""

import shlex
from pathlib import Path

import click

from pipeline.cli.options import Location


@click.command("report")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder for what is made.  [default: RUNS]")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="The prepared data set behind the runs' cache: to hear the clips, and for accuracy by SNR.",
)
@click.option(
    "--test-on",
    "others",
    type=Location(),
    multiple=True,
    help="Another cache of the same labels: the runs are scored on its test split, too. Can be given several times.",
)
def report_command(runs, out, data, others) -> None:
    """Print the table of RUNS (run directories, or folders of them); write tables and a page of figures.

    index.html needs no other file and no network. table.md and runs.csv have a row a run; results.md, .csv and .tex are
    students x kd weights over seeds, with the difference to training without the teacher. The runs' cache is used where
    it is at hand.

    \b
    Example:
      tkd report runs --data data/mini --out report
      tkd report runs --test-on caches/mini-rain.zarr --out report
    """
    import torch

    from cache_schema import open_cache
    from pipeline.report.folder import report
    from pipeline.report.text.provenance import place

    torch.set_num_threads(1)  # clips one at a time, through networks so small that threads wait for each other
    caches = [open_cache(other) for other in others]
    words = ["tkd", "report", *runs, *(("--data", data) if data else ())]
    words += [word for other in others for word in ("--test-on", other)] + (["--out", out] if out else [])
    command = shlex.join(place(str(word)) for word in words)
    for line in report(list(runs), out or runs[0], _recordings(data) if data else None, caches, command):
        click.echo(line)


def _recordings(data: Path):
    from functools import partial

    from pipeline.data.audio import render_clip
    from pipeline.data.manifest import read_manifest
    from pipeline.report.examples import Recordings

    manifest = read_manifest(data)
    rows = {clip.clip_id: clip for clip in manifest.clips}
    return Recordings(rows, partial(render_clip, manifest.audio_root), manifest.info.sample_rate, manifest.sha256())
