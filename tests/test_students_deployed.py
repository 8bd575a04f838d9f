"""What is deployed is the published student: the same file, graph and arithmetic with and without distillation."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from cache_schema import open_cache
from pipeline.distill.config import TrainConfig
from pipeline.distill.run import read_run
from pipeline.distill.train import train
from students import PAPER_STUDENTS, build_student

WEIGHTS = (0.0, 0.25)


@pytest.fixture(scope="module", params=PAPER_STUDENTS)
def runs(request, tiny_cache, tmp_path_factory) -> tuple[str, list[Path]]:
    """A student's name, and its runs without and with distillation."""
    folder = tmp_path_factory.mktemp(request.param)
    paths = [folder / f"kd{weight}" for weight in WEIGHTS]
    for path, weight in zip(paths, WEIGHTS, strict=True):
        train(
            open_cache(tiny_cache), TrainConfig(student=request.param, kd_weight=weight, epochs=1, batch_size=48), path
        )
    return request.param, paths


def saved_form(path: Path) -> tuple[dict, list[tuple[str, tuple[int, ...], str]]]:
    with safe_open(path / "model.safetensors", "pt") as file:
        slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
        return file.metadata(), [(key, tuple(s.get_shape()), s.get_dtype()) for key, s in slices.items()]


def graph_of(student: torch.nn.Module) -> str:
    return str(torch.export.export(student, (torch.zeros(1, 40, 20),)).graph)


@pytest.mark.filterwarnings("ignore:The tensor attributes self.gru:UserWarning")  # torch's, about its own nn.GRU
def test_saved_keys_graph_and_logits_are_the_published_students(runs) -> None:
    name, (plain, distilled) = runs
    assert saved_form(plain) == saved_form(distilled)
    assert plain.joinpath("model.safetensors").stat().st_size == distilled.joinpath("model.safetensors").stat().st_size
    published, features = build_student(name, 12).eval(), torch.randn(2, 40, 50)
    for path in (plain, distilled):
        student = read_run(path).student
        assert graph_of(student) == graph_of(published)
        published.load_state_dict(student.state_dict(), strict=True)
        assert torch.equal(student(features).logits, published(features).logits)
