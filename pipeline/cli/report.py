"""`tkd report`."""

from pathlib import Path

import click


@click.command("report")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder for table.md and attention.png.  [default: RUNS]")
def report_command(runs, out) -> None:
    """Print the table of RUNS (run directories, or folders of them) and draw where everyone looks.

    \b
    Example:
      tkd report runs
    """
    from pipeline.report.page import report

    for line in report(list(runs), out or runs[0]):
        click.echo(line)
