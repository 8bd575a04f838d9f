"""docs/students.md: its numbers are those counted, its code runs as it stands."""

import re
from pathlib import Path

import pytest
import torch

from students import STUDENTS, student_facts

PAGE = Path(__file__).parent.parent.joinpath("docs", "students.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", list(STUDENTS))
def test_the_table_shows_what_is_counted(name):
    facts = student_facts(name, hop_seconds=0.02, window_seconds=0.04)
    macs, frame = f"{facts.macs_per_second / 1e6:.2f}", f"{1000 * facts.frame_seconds:.0f} ms"
    assert f"| `{name}` | {facts.n_parameters:,} | {macs} | {frame} |" in PAGE


def test_a_network_of_ones_own_trains_as_the_page_says(tiny_cache, tmp_path, monkeypatch):
    """Every block of code, on a small cache; what they make keeps a student's promise about padding."""
    tmp_path.joinpath("caches").mkdir()
    tmp_path.joinpath("caches", "mini.zarr").symlink_to(tiny_cache)
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(code, names)
    assert names["losses"].total.isfinite()
    assert names["distillation"].query.abs().sum() > 0
    assert names["metrics"]["student"] == "small"

    student, features = names["student"].eval(), torch.randn(1, 40, 31)
    alone = student(features)
    padded = student(torch.nn.functional.pad(features, (0, 9), value=torch.nan), torch.tensor([31]))
    torch.testing.assert_close(padded.logits, alone.logits)
    assert alone.frames.shape == (1, student.student_lengths(31), student.n_channels) == (1, 16, 32)
    changed = features.clone()
    changed[:, :, 14] += 1
    moved = (student(changed).frames - alone.frames).abs().amax(2)[0] > 1e-6
    assert moved.nonzero().flatten().tolist() == [6, 7, 8]  # centred on 12, 14 and 16, reach 2
