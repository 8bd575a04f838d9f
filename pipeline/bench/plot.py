"""ratios.svg: each ratio beside 1."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.bench.results import Table

_MET, _MISSED, _OPEN = "#1b7837", "#b2182b", "#2166ac"
_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_NEAR = (0.85, 1.15)  # where those with a target are expected


def draw(tables: Sequence[Table], path: Path) -> None:
    """Draws a line of dots for each table and writes it to `path`, whole or not at all.

    Those with a target stand above, on a scale that shows a hundredth; the others below, on a logarithmic one.
    """
    panels = [
        panel
        for panel in (
            [table for table in tables if table.target is not None],
            [table for table in tables if table.target is None],
        )
        if panel
    ]
    figure = Figure(figsize=(10, 0.42 * len(tables) + 1.2 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), height_ratios=[len(panel) + 1 for panel in panels], squeeze=False)
    for axis, panel in zip(axes[:, 0], panels, strict=True):
        _panel(axis, panel)
    partial = path.with_name(f".{path.name}.partial")
    figure.savefig(partial, format="svg", metadata={"Date": None})
    partial.replace(path)


def _panel(axis: Axes, tables: Sequence[Table]) -> None:
    axis.axvline(1, color="black", linewidth=1)
    for y, table in enumerate(tables):
        for row in table.rows:
            verdict = table.verdict(row)
            colour = _MET if verdict.startswith("met") else _MISSED if verdict else _OPEN
            if row.low is not None:
                axis.plot([row.low, row.high], [y, y], color=colour, linewidth=1.5, alpha=0.4)
            axis.plot(row.ratio, y, "o", color=colour, markersize=5, alpha=0.8)
        if table.target is not None:
            axis.plot(table.target, y, "|", color="black", markersize=14, markeredgewidth=1.5)
    ratios = [row.ratio for table in tables for row in table.rows]
    if tables[0].target is None:
        axis.set_xscale("log")
        axis.set_xlim(0.8 * min(0.5, *ratios), 1.25 * max(2, *ratios))
        low, high = axis.get_xlim()
        ticks = [tick for tick in _TICKS if low <= tick <= high]
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
        axis.set_title("without a target, on a logarithmic scale", fontsize=9)
    else:
        axis.set_xlim(min(_NEAR[0], *ratios) - 0.02, max(_NEAR[1], *ratios) + 0.02)
        axis.set_title("green: meets its target (the black mark); red: does not", fontsize=9)
    better = ("lower", "higher")
    names = [
        f"{table.title} ({better[table.higher_is_better]} is better)\nbeside {table.reference}" for table in tables
    ]
    axis.set_yticks(range(len(tables)), names, fontsize=8)
    axis.set_ylim(len(tables) - 0.5, -0.5)
    axis.grid(axis="x", alpha=0.3)
    axis.set_xlabel("ratio to the reference, which is 1")
