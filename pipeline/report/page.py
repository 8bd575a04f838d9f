"""A report: the table, and the figure where the cache is at hand."""

from pathlib import Path

from cache_schema import CacheError, open_cache
from pipeline.distill.run import Run, read_run
from pipeline.errors import TkdError
from pipeline.report.table import find_runs, footnotes, table


def report(paths: list[Path], out: Path) -> list[str]:
    """Writes `table.md` and `attention.png` into the folder `out` and returns the lines to show.

    A table for each cache; the figure shows the runs of the first. It is left out, with the reason, where that cache
    is not at hand.

    Raises:
        TkdError: no complete runs, or a damaged one.
    """
    runs = [read_run(path) for path in find_runs(paths)]
    by_cache: dict[str, list[Run]] = {}
    for run in runs:
        by_cache.setdefault(run.metrics["cache_id"], []).append(run)
    text = "\n\n".join(f"{table(group)}\n\n{footnotes(group)}" for group in by_cache.values())
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text(text + "\n", encoding="utf-8")
    lines = [text, "", f"{out / 'table.md'}: the table"]
    cache_id, same = next(iter(by_cache.items()))
    try:
        from pipeline.report.figure import attention_figure  # its library comes with an extra

        cache = open_cache(runs[0].config["cache"])
        if cache.metadata["cache_id"] != cache_id:
            raise TkdError(f"{cache.path}: another cache now (cache_id {cache.metadata['cache_id'][:12]}).")
        attention_figure(cache, same, out / "attention.png")
    except (TkdError, CacheError) as error:
        return [*lines, f"No figure: {error}"]
    except ModuleNotFoundError as error:
        return [
            *lines,
            f"No figure: {error.name} is not installed. Install it with: pip install -e '.[report]' (in tkd's folder)",
        ]
    return [*lines, f"{out / 'attention.png'}: where the teacher and the students look"]
