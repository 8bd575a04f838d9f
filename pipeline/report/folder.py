"""A report: tables, their data, the page, and a figure where its library is at hand."""

import os
from collections.abc import Sequence
from pathlib import Path

from cache_schema import Cache, CacheError
from pipeline.errors import TkdError
from pipeline.report.drawing.markup import GENERATOR
from pipeline.report.examples import Recordings
from pipeline.report.numbers.elsewhere import score_elsewhere
from pipeline.report.numbers.evidence import Evidence, find_evidence
from pipeline.report.numbers.gathered import results_of
from pipeline.report.numbers.records import Record, read_records
from pipeline.report.numbers.results import Results
from pipeline.report.page.compared import compare_lengths
from pipeline.report.page.index import index_page
from pipeline.report.page.section import pair
from pipeline.report.text.table import footnotes, table
from pipeline.report.text.tables import cells_csv, latex, markdown, runs_csv
from pipeline.report.text.verdict import verdict

PAGE, FILES = (
    "index.html",
    ("table.md", "results.md", "results.tex", "results.csv", "runs.csv", "attention.png", "lengths.png"),
)
_MOST_LINES = 8  # in the figure; more cannot be told apart


def report(
    paths: list[Path],
    out: Path,
    recordings: Recordings | None = None,
    others: Sequence[Cache] = (),
    command: str = "tkd report",
) -> list[str]:
    """Writes a report into the folder `out` and returns the lines to show.

    table.md: each run; results.md, .csv, .tex: students x kd weights over seeds, a table for each cache and choice of
    settings; runs.csv: each run with its settings; index.html: the page; attention.png: the runs of the first cache;
    lengths.png: scores against clip length, where there are several. What cannot be made is left out, with the reason.

    Args:
        paths: Runs, or folders of them.
        out: Made where it is not there.
        recordings: The prepared data set the first cache was made of.
        others: Caches whose test splits the runs are scored on, too.
        command: That the page names as what makes it.

    Raises:
        TkdError: no complete runs, or something else in the way.
    """
    _require_ours(out)
    records, remarks = read_records(paths)
    evidence = find_evidence(records)
    tables, repeated = results_of(records, evidence)
    remarks += repeated
    caches = [it.cache for it in evidence.values() if it.cache is not None]
    if recordings is not None and caches and not any(map(recordings.are_of, caches)):
        remarks.append("--data: not the data set of these runs' caches: no clip to play, no scores by SNR.")
    elsewhere: list[Results] = []
    for cache in others:
        found, unsuited = score_elsewhere(tables, cache)
        elsewhere += found
        remarks += unsuited
    whole = [*tables, *elsewhere]
    out.mkdir(parents=True, exist_ok=True)
    by_cache: dict[str, list[Record]] = {}
    for record in records:
        by_cache.setdefault(record.metrics["cache_id"], []).append(record)
    text = "\n\n".join(f"{table(group)}\n\n{footnotes(group)}" for group in by_cache.values())
    files = {
        "table.md": (text + "\n", "each run"),
        "results.md": ("\n\n".join(map(markdown, whole)) + "\n", "students x kd weights, mean and spread over seeds"),
        "results.tex": ("\n\n".join(map(latex, whole)) + "\n", "the same for LaTeX (booktabs)"),
        "results.csv": (cells_csv(whole), "the same, a row a cell"),
        "runs.csv": (runs_csv(records, elsewhere), "a row a run and test split, with its settings"),
        "index.html": (
            index_page(records, tables, elsewhere, recordings, remarks, command),
            "the page: open it in a browser",
        ),
    }
    for name in sorted(files, key=lambda name: name != PAGE):  # the page first: it says whose the folder is
        _write(out / name, files[name][0].encode("utf-8", "backslashreplace"))  # file names may be bytes
    said = [
        line
        for results in whole
        if results.differences
        for line in (f"{results.title}:", *(f"  {sentence}" for sentence in verdict(results)), "")
    ]
    lines = [text, "", *said, *(f"{out / name}: {what}" for name, (_, what) in files.items()), *remarks]
    return [*lines, *_lengths(tables, out / "lengths.png"), _figure(tables, by_cache, evidence, out / "attention.png")]


def _require_ours(out: Path) -> None:
    """Raises TkdError if the folder cannot be written, or holds files of these names that no report made."""
    if out.exists() and not out.is_dir():
        raise TkdError(f"{out}: a file, expected a folder. Give another --out.")
    page = out / PAGE
    if page.exists() and GENERATOR.encode() in page.read_bytes()[:2000]:
        return
    for name in (PAGE, *FILES):
        if (out / name).exists():
            raise TkdError(f"{out / name}: there already, and not made by tkd report. Give another --out.")


def _write(file: Path, content: bytes) -> None:
    """Writes a file that is there whole or not at all; two reports may be at it."""
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    os.replace(partial, file)


def _lengths(tables: list[Results], file: Path) -> list[str]:
    """Draws scores against clip length, of the most students; returns the line that says so, or none."""
    file.unlink(missing_ok=True)  # of an earlier report
    found = compare_lengths(tables)
    if not found:
        return []
    try:
        from pipeline.report.figure import lengths_figure  # its library comes with an extra
    except ModuleNotFoundError:
        return []  # said of attention.png
    _write(file, lengths_figure(max(found, key=lambda it: len(it.students))))
    return [f"{file}: scores against clip length."]


def _figure(tables: list[Results], by_cache: dict[str, list[Record]], evidence: dict[str, Evidence], file: Path) -> str:
    """Draws the runs of the first cache; returns the line that says so, or why not."""
    file.unlink(missing_ok=True)  # of an earlier report
    first = next(iter(by_cache))
    if evidence[first].cache is None:
        return f"No figure: {evidence[first].remarks[0]}"
    try:
        from pipeline.report.figure import attention_figure  # its library comes with an extra

        content, unread = attention_figure(evidence[first].cache, _to_draw(by_cache[first], tables))
    except (TkdError, CacheError, TypeError) as error:  # TypeError: settings of another version
        return f"No figure: {error}"
    except ModuleNotFoundError as error:
        return (
            f"No figure: {error.name} is not installed. Install it with: pip install -e '.[report]' (in tkd's folder)"
        )
    _write(file, content)
    return " ".join([f"{file}: where the teacher and the students look.", *(f"Not in it: {said}" for said in unread)])


def _to_draw(runs: list[Record], tables: list[Results]) -> list[Record]:
    """Returns the runs of a figure: all, or of many the first seed of each student, without and with KD."""
    if len(runs) <= _MOST_LINES:
        return runs
    cache_id = runs[0].metrics["cache_id"]
    results = next(it for it in tables if it.evidence.cache_id == cache_id)
    pairs = [(student, column) for student in results.students for column in pair(results, student)]
    return [results.cells[where].runs[0] for where in pairs][:_MOST_LINES]
