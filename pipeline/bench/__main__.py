"""`python -m pipeline.bench`: prints the tables."""

import platform
import tempfile
from pathlib import Path

import torch

from cache_schema import open_cache
from pipeline.bench import reading, stage_one
from pipeline.bench.stage_two import stage_two
from pipeline.teacher.model import load_teacher
from students import PAPER_STUDENTS


def main() -> None:
    """Prints the tables."""
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    teacher = load_teacher("bundled")[0]
    stage_one.main()
    print("\nstage two, batch 64 of 8 s clips: ratio to a step without distillation")
    with tempfile.TemporaryDirectory() as folder:
        cache = open_cache(reading.make_cache(Path(folder) / "64.zarr", 64, 16, 32))
        for name in PAPER_STUDENTS:
            cost = stage_two(name, cache, teacher)
            print(
                f"  {name:<10} from the cache {cost['cached'] / cost['plain']:.2f}, "
                f"teacher in the loop {cost['teacher in loop'] / cost['plain']:.2f}   ({cost['plain']:.3f} s a step)"
            )
    with tempfile.TemporaryDirectory() as folder:
        reading.main(Path(folder))


if __name__ == "__main__":
    main()
