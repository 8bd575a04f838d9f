"""Section after section, each kept as soon as it is done."""

import json
import os
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from pipeline.bench.machine import environment, n_cores
from pipeline.bench.page import PLOT, write_page
from pipeline.bench.plot import draw
from pipeline.bench.results import Measured, Section
from pipeline.errors import TkdError
from pipeline.lock import only_one
from pipeline.progress import say

RESULTS, UNFINISHED, PAGE = "results.json", "results.unfinished.json", "RESULTS.md"


def gather(measures: Mapping[str, Callable[[bool], Measured]], out: Path, command: str, quick: bool) -> list[Section]:
    """Measures the sections and writes `out`: RESULTS.md, ratios.svg and results.json; returns the sections.

    Run again after an interruption, it goes on with the section that was interrupted, if machine, versions and sources
    are the same. What was there before is replaced at the end, all at once but for moments.

    Args:
        measures: Each section by its name, in the order in which they are measured and stand on the page.
        out: A folder.
        command: That the page is to name.
        quick: A look at whether all works; its figures are not worth keeping.

    Raises:
        TkdError: nothing can be written there, or another process is at it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TkdError(f"{out}: cannot be written ({error.strerror}). Give another --out.") from error
    with only_one(out):
        found, unfinished = environment(), out / UNFINISHED
        state = {"command": command, "environment": found, "sections": {}}
        there = _read(unfinished)
        if there is not None:
            if {**there, "sections": {}} == state:
                state = there
                say(f"{out}: going on after {', '.join(state['sections'])}")
            else:
                say(f"{unfinished}: of another command, machine, version or source: not used")
        for name, measure in measures.items():
            if name not in state["sections"]:
                state["sections"][name] = run_section(name, measure, quick).as_json()
                _write(unfinished, state)
        sections = [Section.of_json(state["sections"][name]) for name in measures]
        draw([table for section in sections for table in section.measured.tables], out / PLOT)
        write_page(out / PAGE, command, found, sections)
        unfinished.replace(out / RESULTS)
        return sections


def run_section(name: str, measure: Callable[[bool], Measured], quick: bool) -> Section:
    """Measures one section."""
    began, load, started = datetime.now(UTC), os.getloadavg()[0], time.monotonic()
    say(f"{name}: begun, load average {load:.1f}")
    measured = measure(quick)
    section = Section(
        name, f"{began:%Y-%m-%d %H:%M:%S} UTC", time.monotonic() - started, load, n_cores(), quick, measured
    )
    say(f"{name}: {section.seconds:.0f} s{', on a busy machine' if section.disturbed else ''}")
    return section


def _read(path: Path) -> dict | None:
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return state if isinstance(state, dict) else None


def _write(path: Path, state: Mapping) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(state, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)
