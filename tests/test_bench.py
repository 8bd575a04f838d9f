"""`python -m pipeline.bench`: what it writes, what it keeps, and what it makes of figures."""

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from pipeline.bench.compare import interval, row, speed_row, take_turns
from pipeline.bench.gather import PAGE, RESULTS, UNFINISHED, gather
from pipeline.bench.page import PLOT, page
from pipeline.bench.results import Measured, Row, Section, Table
from pipeline.errors import TkdError
from students import PAPER_STUDENTS


def measured(*ratios: float) -> Measured:
    """A section's tables with planted ratios."""
    rows = [Row(f"case {i}", ratio, ratio, 1.0, 7, 0.99 * ratio, 1.01 * ratio) for i, ratio in enumerate(ratios)]
    return Measured([Table("ours", "theirs", rows, target=1.03)], ["A note."])


def test_a_quick_look_at_one_section_writes_a_whole_page(tmp_path):
    command = [sys.executable, "-m", "pipeline.bench", "stage_two", "--quick", "--out", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    written = (tmp_path / PAGE).read_text(encoding="utf-8")
    assert done.stdout.strip() == written.strip()
    assert "These are no results." in written
    table = [line.split("|")[1:-1] for line in written.splitlines() if line.startswith("|")]
    for name in PAPER_STUDENTS:
        (cells,) = (cells for cells in table if cells[0].strip() == name)
        assert 0.1 < float(cells[1].split()[0]) < 10, cells
    assert ElementTree.parse(tmp_path / PLOT).getroot().tag.endswith("svg")
    state = json.loads((tmp_path / RESULTS).read_text(encoding="utf-8"))
    assert state["environment"]["torch"] in written
    kept = Section.of_json(state["sections"]["stage_two"])
    assert [row.what for row in kept.measured.tables[0].rows] == list(PAPER_STUDENTS)
    assert kept.as_json() == state["sections"]["stage_two"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([PAGE, PLOT, RESULTS])


def test_sections_that_were_done_are_kept_when_one_after_them_is_interrupted(tmp_path):
    ran = []

    def first(quick):
        ran.append("first")
        return measured(1.0)

    def interrupted(quick):
        raise KeyboardInterrupt

    def second(quick):
        ran.append("second")
        return measured(1.5)

    with pytest.raises(KeyboardInterrupt):
        gather({"first": first, "second": interrupted}, tmp_path, "bench", False)
    assert not (tmp_path / PAGE).exists()
    sections = gather({"first": first, "second": second}, tmp_path, "bench", False)
    assert ran == ["first", "second"]
    assert [section.measured.tables[0].rows[0].ratio for section in sections] == [1.0, 1.5]

    gather({"first": first, "second": second}, tmp_path, "bench", False)
    assert ran == ["first", "second"] * 2, "a whole page was taken for an unfinished one"


@pytest.mark.parametrize("damage", ["other sources", "cut off", "not an object"])
def test_what_another_version_left_unfinished_is_not_used(tmp_path, damage):
    def interrupted(quick):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gather({"first": lambda quick: measured(1.0), "second": interrupted}, tmp_path, "bench", False)
    unfinished = tmp_path / UNFINISHED
    text = unfinished.read_text(encoding="utf-8")
    state = json.loads(text)
    state["environment"]["sources"] = "0" * 12
    left = {"other sources": json.dumps(state), "cut off": text[:100], "not an object": "[]"}
    unfinished.write_text(left[damage], encoding="utf-8")
    both = {"first": lambda quick: measured(2.0), "second": lambda quick: measured(3.0)}
    sections = gather(both, tmp_path, "bench", False)
    assert [section.measured.tables[0].rows[0].ratio for section in sections] == [2.0, 3.0]


def test_an_out_that_cannot_be_written_is_an_error_before_anything_is_measured(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(TkdError, match=r"out: cannot be written .* Give another --out\."):
        gather({"first": lambda quick: pytest.fail("measured")}, file / "out", "bench", False)


def test_the_page_says_what_is_met_and_that_others_were_at_work():
    busy = Section("busy_one", "2026-01-01 00:00:00 UTC", 1.0, 2.6, 2, False, measured(1.0, 1.01, 1.5))
    quiet = Section("quiet_one", "2026-01-01 00:01:00 UTC", 1.0, 2.4, 2, False, measured(1.0))
    written = page("bench", {"cores": "2"}, [busy, quiet])
    assert "**Others kept the 2 cores busy when these began: busy_one (load 2.6).**" in written
    rows = [re.sub(" +", " ", line) for line in written.splitlines()]
    assert "| ours | theirs | 1.00 to 1.50 | ≤ 1.03 | 2 of 3 |" in rows
    assert "| case 1 | 1.010 [1.000, 1.020] | 1.01 | 1 | 7 | met |" in rows
    assert "quick" not in written


@pytest.mark.parametrize(
    ("ratio", "low", "high", "higher_is_better", "verdict"),
    [
        (1.02, 1.01, 1.03, False, "met"),
        (1.02, 1.01, 1.04, False, "met, within the spread"),
        (1.04, 1.02, 1.05, False, "missed, within the spread"),
        (1.04, 1.031, 1.05, False, "missed"),
        (1.04, None, None, False, "missed"),
        (1.04, 1.035, 1.05, True, "met"),
        (1.02, 1.01, 1.04, True, "missed, within the spread"),
        (float("nan"), None, None, False, "missed"),
    ],
)
def test_a_target_is_met_without_doubt_only_with_the_whole_interval(ratio, low, high, higher_is_better, verdict):
    table = Table("ours", "theirs", [], target=1.03, higher_is_better=higher_is_better)
    assert table.verdict(Row("case", ratio, 1.0, 1.0, 7, low, high)) == verdict


def test_the_interval_of_the_median_is_that_of_tables_of_order_statistics():
    """Nonparametric 95 % intervals: of 6 values first and last, of 10 the 2nd and 9th, of 20 the 6th and 15th."""
    for n, k in ((6, 1), (10, 2), (20, 6), (41, 14)):
        assert interval([float(i) for i in range(n, 0, -1)]) == (k, n + 1 - k)
    assert interval([3.0, 1.0, 2.0]) == (1.0, 3.0)


def test_ratios_are_taken_round_by_round():
    """A machine that becomes three times as slow half-way leaves the ratio as it is."""
    own, reference = [1.1, 1.1, 3.3, 3.3, 3.3], [1.0, 1.0, 3.0, 3.0, 3.0]
    assert row("case", own, reference).ratio == pytest.approx(1.1)
    assert speed_row("case", own, reference).ratio == pytest.approx(1 / 1.1)
    assert row("case", [2.0], [1.0]).low is None


def test_variants_are_run_in_turn_after_a_warm_up():
    ran = []
    seconds = take_turns({name: lambda name=name: ran.append(name) for name in "ab"}, 3)
    assert "".join(ran) == "ab" + "ab" + "ba" + "ab"
    assert {name: len(of) for name, of in seconds.items()} == {"a": 3, "b": 3}
