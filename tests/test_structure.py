"""The arrows between the packages, and what each may import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cache_schema
import pipeline.extract.config

ROOT = Path(__file__).parent.parent
PACKAGES = ("pipeline", "cache_schema", "students")
STAGE_ONE = ("pipeline.data", "pipeline.teacher", "pipeline.extract")
STAGE_TWO = ("pipeline.distill", "pipeline.report", "pipeline.sweep", "pipeline.frames", "pipeline.measures")


def imported_modules(path: Path) -> set[str]:
    """Every module a file imports, anywhere in it, by full name."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
    return names


def imports_of(package: str) -> dict[Path, set[str]]:
    return {path: imported_modules(path) for path in (ROOT / package).rglob("*.py")}


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("cache_schema", {"pipeline", "students", "torch", "click", "dask"}),
        ("students", {"pipeline", "cache_schema", "click", "dask", "zarr", "transformers"}),
    ],
)
def test_packages_below_pipeline_know_neither_it_nor_each_other(package, forbidden):
    for path, modules in imports_of(package).items():
        assert not {module.partition(".")[0] for module in modules} & forbidden, path


def test_students_import_torch_and_the_standard_library_only():
    """Except for what training on a CPU compiles, which is not needed to use them."""
    for path, modules in imports_of("students").items():
        roots = {module.partition(".")[0] for module in modules}
        compiled = {"llvmlite", "numba", "numpy"} if path.name == "fused.py" else set()
        assert roots <= {"torch", "students"} | compiled | sys.stdlib_module_names, path


def test_students_train_without_numba():
    """As torch has it."""
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "import torch, students\n"
        "student = students.build_student('crnn', 12)\n"
        "student(torch.randn(2, 40, 50)).logits.sum().backward()\n"
        "print(bool(student.gru.weight_hh_l0.grad.abs().sum() > 0), 'students.fused' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["True", "False"]


def test_stage_two_does_not_reach_for_stage_one():
    for path, modules in imports_of("pipeline").items():
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if name.startswith(STAGE_TWO):
            assert not any(
                module.startswith(("pipeline.data", "pipeline.teacher", "pipeline.extract")) for module in modules
            )


def test_pipeline_uses_what_cache_schema_offers():
    for path, modules in imports_of("pipeline").items():
        used = {module for module in modules if module.partition(".")[0] == "cache_schema"}
        assert used <= {"cache_schema", "cache_schema.lock"}, path


def test_the_command_line_offers_what_a_cache_may_keep():
    assert pipeline.extract.config.KEEPS == cache_schema.KEEPS


def test_training_a_student_imports_no_teacher_code(tiny_cache, tmp_path):
    """Stage two runs in a process where transformers, torchaudio, soundfile and pyarrow cannot be imported."""
    program = f"""
import sys
for name in ("transformers", "torchaudio", "soundfile", "pyarrow", "espeakng_loader"):
    sys.modules[name] = None
from pipeline.cli.main import tkd
tkd("train --student tc_resnet --epochs 1 --cache".split() + [{str(tiny_cache)!r}, "--out", {str(tmp_path / "run")!r}])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "metrics.json").exists()


def test_no_fourth_package_is_installed():
    listed = ROOT.joinpath("pyproject.toml").read_text().partition("packages = [")[2].partition("]")[0]
    names = {line.strip(' ",') for line in listed.splitlines() if line.strip()}
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for package in PACKAGES
        for path in (ROOT / package).rglob("__init__.py")
    }
    assert names == folders
