"""`python -m pipeline.bench`: what `make bench` does."""

import shlex
import sys
from pathlib import Path

import click

from cache_schema import CacheError
from pipeline.allocation import keep_freed_memory
from pipeline.bench.gather import PAGE, gather
from pipeline.bench.sections import epochs, reading, size, stage_one, stage_two, students, teacher_in_loop
from pipeline.errors import TkdError

SECTIONS = {
    "stage_two": stage_two.measure,
    "epochs": epochs.measure,
    "teacher_in_loop": teacher_in_loop.measure,
    "stage_one": stage_one.measure,
    "students": students.measure,
    "reading": reading.measure,
    "size": size.measure,
}
OUT, ELSEWHERE = Path("benchmarks"), Path("build/bench")


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.argument("sections", nargs=-1, type=click.Choice(list(SECTIONS)))
@click.option("--quick", is_flag=True, help="A look at whether all works, in some two minutes: no results.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help=f"Where the page goes. [default: {OUT}; {ELSEWHERE} with --quick or of some sections]",
)
def main(sections, quick, out) -> None:
    """Measure every ratio that is promised and write them on one page; of SECTIONS alone, if some are named.

    Run again after an interruption, it goes on where it stopped.

    \b
    Examples:
      python -m pipeline.bench
      python -m pipeline.bench students --out build/students
    """
    out = out or (ELSEWHERE if quick or sections else OUT)
    chosen = {name: measure for name, measure in SECTIONS.items() if not sections or name in sections}
    command = shlex.join(["python", "-m", "pipeline.bench", *sys.argv[1:]])
    keep_freed_memory()  # as tkd train does
    try:
        gather(chosen, out, command, quick)
    except (TkdError, CacheError) as error:
        raise click.ClickException(str(error)) from error
    click.echo((out / PAGE).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
