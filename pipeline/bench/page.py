"""RESULTS.md: every ratio on one page."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.bench.results import Row, Section, Table
from pipeline.markdown import markdown_table

PLOT = "ratios.svg"


def page(command: str, environment: Mapping[str, str], sections: Sequence[Section]) -> str:
    """Returns the page as Markdown.

    Args:
        command: That made it.
        environment: As `machine.environment` says.
        sections: In the order in which they are to stand.
    """
    quick = any(section.quick for section in sections)
    began, seconds = min(section.began for section in sections), sum(section.seconds for section in sections)
    parts = [
        "# Every ratio, beside its reference" + (" (a quick look)" if quick else ""),
        f"Written by `{command}` on {began}; it took {seconds / 60:.0f} min. Ratios hold within one run, machine and "
        "version. A ratio is the median of rounds in which both were run in turn; in brackets the 95 % confidence "
        "interval of that median, or the range where there were fewer than six rounds. The median meets or misses a "
        "target: within the spread, where the interval reaches across it. All figures: [results.json](results.json).",
    ]
    if quick:
        parts.append("**Measured with `--quick`: a few rounds, and not every case. These are no results.**")
    if disturbed := [section for section in sections if section.disturbed]:
        found = ", ".join(f"{section.name} (load {section.load:.1f})" for section in disturbed)
        parts.append(f"**Others kept the {disturbed[0].n_cores} cores busy when these began: {found}.**")
    parts += [
        markdown_table(("", ""), environment.items()),
        f"![Each ratio beside 1]({PLOT})",
        "## In one glance",
        markdown_table(
            ("", "beside", "ratio", "target", "met"), [_summary(t) for s in sections for t in s.measured.tables]
        ),
    ]
    for section in sections:
        parts.append(f"## {section.name.replace('_', ' ').capitalize()}")
        parts.append(f"{section.began}, {section.seconds:.0f} s, load average {section.load:.1f} at the start.")
        parts += section.measured.notes
        parts += [_figures(table) for table in section.measured.tables]
    return "\n\n".join(parts) + "\n"


def write_page(path: Path, command: str, environment: Mapping[str, str], sections: Sequence[Section]) -> None:
    """Writes the page to `path`, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(page(command, environment, sections), encoding="utf-8")
    partial.replace(path)


def _summary(table: Table) -> tuple[str, ...]:
    ratios, verdicts = [row.ratio for row in table.rows], [table.verdict(row) for row in table.rows]
    met = sum(verdict.startswith("met") for verdict in verdicts)
    lowest, highest = f"{min(ratios):.2f}", f"{max(ratios):.2f}"
    return (
        table.title,
        table.reference,
        lowest if lowest == highest else f"{lowest} to {highest}",
        _target(table),
        f"{met} of {len(ratios)}" if table.target else "",
    )


def _figures(table: Table) -> str:
    head = (f"{table.title}, beside {table.reference}", "ratio", table.unit, f"reference, {table.unit}", "rounds")
    rows = [(row.what, _ratio(row), f"{row.own:.4g}", f"{row.reference:.4g}", str(row.rounds)) for row in table.rows]
    if table.target:
        head = (*head, f"target {_target(table)}")
        rows = [(*cells, table.verdict(row)) for cells, row in zip(rows, table.rows, strict=True)]
    return markdown_table(head, rows)


def _ratio(row: Row) -> str:
    return f"{row.ratio:.3f}" + ("" if row.low is None else f" [{row.low:.3f}, {row.high:.3f}]")


def _target(table: Table) -> str:
    if table.target is None:
        return ""
    return f"{'≥' if table.higher_is_better else '≤'} {table.target:g}"
