"""Where teacher and students look, over the spectrogram: figure 2 of arXiv 2110.14131, for clips of a cache."""

from pathlib import Path
from textwrap import shorten

import matplotlib

matplotlib.use("Agg")
import numpy as np
import torch
from matplotlib import pyplot as plt
from torch import Tensor
from torch.nn.functional import one_hot

from cache_schema import Cache
from pipeline.distill.data import Clips, load_splits
from pipeline.distill.losses import student_attention
from pipeline.distill.run import Run
from pipeline.frames import FrameGrid, student_grid, teacher_grid

_N_CLIPS = 3
_EVENT = "tab:green"


def attention_figure(cache: Cache, runs: list[Run], file: Path) -> None:
    """Draws `file` (PNG): for each of three test clips its spectrogram, the event, and everyone's frame weights.

    The clips are the first test clip of each of the last three labels (that have events, where any are known; another
    clip for each label, where it has another): a rule, not a choice.

    Args:
        cache: The cache the runs were trained from.
        runs: Their attention is drawn, one line each.
        file: Where to.
    """
    test = load_splits(cache, names=("test",))["test"]
    has = test.labels.bool() if cache.task == "multi_label" else one_hot(test.labels).bool()  # (n, n_classes)
    rows = _rows(has, test.event_start >= 0)
    figure, axes = plt.subplots(
        2, len(rows), figsize=(4.5 * len(rows), 5), sharex="col", squeeze=False, layout="constrained"
    )
    source, rate = teacher_grid(cache.metadata), cache.metadata["features"]["sample_rate"]
    for column, row in enumerate(rows):
        clip = test.take([row])
        top, bottom = axes[:, column]
        _spectrogram(top, clip, cache.metadata["features"])
        said = ", ".join(f"“{cache.labels[label]}”" for label in has[row].nonzero()[:, 0])
        top.set_title(f"{shorten(said, 60)}  ({clip.clip_id[0]})", fontsize=9, parse_math=False)
        teacher = clip.weights[:, : int(clip.weight_lengths)]
        _line(bottom, teacher / teacher.sum(), source, rate, label="teacher (cached)", color="black", linestyle="--")
        for run in runs:
            weights = _student_weights(run, clip)
            name = f"{run.metrics['student']}, kd_weight {run.metrics['kd_weight']:g}"
            _line(bottom, weights, student_grid(cache.metadata, run.student), rate, label=name)
        bottom.set_xlabel("time (s)")
        if int(clip.event_start) < 0:
            continue
        start, stop = int(clip.event_start) / rate, int(clip.event_stop) / rate
        bottom.axvspan(start, stop, facecolor=_EVENT, alpha=0.15, edgecolor="none")
        for axis in (top, bottom):
            axis.axvline(start, color=_EVENT, linewidth=1.5)
            axis.axvline(stop, color=_EVENT, linewidth=1.5)
    axes[0, 0].set_ylabel("mel band")
    axes[1, 0].set_ylabel("weight per second (1/s)")
    handles, names = axes[1, 0].get_legend_handles_labels()
    if (test.event_start[rows] >= 0).any():
        handles, names = [*handles, plt.Rectangle((0, 0), 1, 1, facecolor=_EVENT, alpha=0.3)], [*names, "event"]
    figure.legend(handles, names, loc="outside lower center", ncols=len(names))
    figure.savefig(file, dpi=120)
    plt.close(figure)


def _rows(has: Tensor, known: Tensor) -> list[int]:
    """Returns the clips to draw, in the order of their labels.

    Args:
        has: (n, n_classes) bool, whether the clip has the label.
        known: (n,) bool, whether its event is known.
    """
    if (has & known[:, None]).any():
        has = has & known[:, None]
    rows: list[int] = []
    for label in has.any(dim=0).nonzero()[-_N_CLIPS:, 0]:
        clips = has[:, label].nonzero()[:, 0].tolist()
        rows.append(next((clip for clip in clips if clip not in rows), clips[0]))
    return list(dict.fromkeys(rows))


@torch.inference_mode()
def _student_weights(run: Run, clip: Clips) -> Tensor:
    out = run.student(clip.features.float(), clip.lengths)
    return student_attention(out.frames, run.query, out.lengths).exp()[:, : int(out.lengths)]


def _spectrogram(axis, clip: Clips, features: dict) -> None:
    log_mel = clip.features[0, :, : int(clip.lengths)].float().numpy()
    seconds = log_mel.shape[1] * features["hop_length"] / features["sample_rate"]
    low = np.percentile(log_mel, 5)
    axis.imshow(log_mel, origin="lower", aspect="auto", extent=(0, seconds, 0, len(log_mel)), cmap="magma", vmin=low)


def _line(axis, weights: Tensor, grid: FrameGrid, rate: int, **style) -> None:
    """Draws weights as a density over time, so that frames of different lengths compare."""
    seconds = (grid.offset + grid.hop_length * np.arange(weights.shape[1])) / rate
    axis.plot(seconds, weights[0].numpy() * rate / grid.hop_length, linewidth=1.5, **style)
