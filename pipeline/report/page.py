"""A report: the table, and the figure where the cache is at hand."""

from pathlib import Path

from cache_schema import open_cache
from pipeline.distill.run import read_run
from pipeline.errors import TkdError
from pipeline.report.figure import attention_figure
from pipeline.report.table import find_runs, footnotes, table


def report(paths: list[Path], out: Path) -> list[str]:
    """Writes `table.md` and `attention.png` into the folder `out` and returns the lines to show.

    The figure shows runs of one cache: the first run's. It is left out, with the reason, where that cache is not at
    hand.

    Raises:
        TkdError: no complete runs, or a damaged one.
    """
    runs = [read_run(path) for path in find_runs(paths)]
    text = f"{table(runs)}\n\n{footnotes(runs)}"
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text(text + "\n", encoding="utf-8")
    lines = [text, "", f"{out / 'table.md'}: the table"]
    cache_id = runs[0].metrics["cache_id"]
    same = [run for run in runs if run.metrics["cache_id"] == cache_id]
    try:
        cache = open_cache(runs[0].config["cache"])
        if cache.metadata["cache_id"] != cache_id:
            raise TkdError(f"{cache.path}: another cache now (cache_id {cache.metadata['cache_id'][:12]}).")
    except (TkdError, ValueError) as error:
        return [*lines, f"No figure: {error}"]
    attention_figure(cache, same, out / "attention.png")
    return [*lines, f"{out / 'attention.png'}: where the teacher and the students look"]
