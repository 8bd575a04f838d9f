"""What becomes of the cached weights on a student's frames: `python -m pipeline.bench.alignment caches/mini.zarr`."""

import click
import torch
from torch import Tensor

from cache_schema import open_cache
from pipeline.distill.config import ALIGNMENTS
from pipeline.distill.data import load_splits
from pipeline.frames import FrameGrid, align, share_in_event, student_grid, teacher_grid
from students import STUDENTS


@click.command()
@click.argument("cache", default="caches/mini.zarr")
@click.option("--students", default="lstm_p,crnn,tc_resnet,tc_resnet8", help="Names, with commas between.")
def main(cache: str, students: str) -> None:
    """Print how far area and linear alignment move the rollouts of a CACHE's validation split."""
    opened = open_cache(cache)
    split = load_splits(opened, names=("validation",))["validation"]
    clips = split.take(range(len(split)))
    source, rate = teacher_grid(opened.metadata), opened.metadata["features"]["sample_rate"]
    weights = clips.weights / clips.weights.sum(dim=1, keepdim=True)
    event = clips.event_start, clips.event_stop
    share, centre = share_in_event(weights, source, *event), _centre(weights, source)
    print("| student | frame | alignment | share in event off by | centre of mass off by | at worst |")
    print("|---|---|---|---|---|---|")
    for name in students.split(","):
        student = STUDENTS[name](len(opened.labels), opened.layout.n_features)
        target, lengths = student_grid(opened.metadata, student), student.student_lengths(clips.lengths)
        for how in ALIGNMENTS:
            aligned = align(weights, clips.weight_lengths, source, target, lengths, int(lengths.max()), how)
            off = (share_in_event(aligned, target, *event) - share).abs().nanmean()
            moved = (_centre(aligned, target) - centre).abs() * 1000 / rate  # ms
            print(
                f"| `{name}` | {1000 * target.hop_length / rate:.0f} ms | {how} | {off:.4f} | {moved.mean():.1f} ms | "
                f"{moved.max():.0f} ms |"
            )


def _centre(weights: Tensor, grid: FrameGrid) -> Tensor:
    """Returns the centre of mass of each clip's weights, (batch,), in samples."""
    return (weights * (grid.offset + grid.hop_length * torch.arange(weights.shape[1]))).sum(dim=1)


if __name__ == "__main__":
    main()
