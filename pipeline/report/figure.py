"""The pictures beside the page: where everyone looks (figure 2 of arXiv 2110.14131), and scores by clip length."""

import io
from textwrap import shorten

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cache_schema import Cache
from pipeline.distill.data import Clips, load_splits
from pipeline.distill.run import read_run
from pipeline.errors import TkdError
from pipeline.report.examples import Looks, example_rows, labels_of, student_looks, teacher_looks
from pipeline.report.numbers.records import Record
from pipeline.report.numbers.results import column_of
from pipeline.report.page.compared import Comparison
from pipeline.report.page.section import DISTILLED, WITHOUT
from pipeline.report.text.words import student_name, unit

_N_CLIPS = 3
_EVENT = "tab:green"
_COLOURS = {WITHOUT: "#1f78b4", DISTILLED: "#b3440f"}  # the page's


def attention_figure(cache: Cache, records: list[Record]) -> tuple[bytes, list[str]]:
    """Returns a PNG: for each of three test clips its spectrogram, the event, and everyone's frame weights.

    Also returns why runs are not in it: damaged ones, and students that are not tkd's own.

    The clips are the first test clip of each of the last three labels (that have events, where any are known; another
    clip for each label, where it has another): a rule, not a choice.

    Args:
        cache: The cache the runs were trained from.
        records: Runs; their attention is drawn, one line each.

    Raises:
        TkdError: the cache has no features, or no run can be read.
    """
    runs, unread = [], []
    for record in records:
        try:
            runs.append((record, read_run(record.path).on(cache)))
        except TkdError as error:
            unread.append(str(error))
    if not runs:
        raise TkdError(unread[0])
    test = load_splits(cache, names=("test",))["test"]
    rows = example_rows(test, _N_CLIPS)
    figure = Figure(
        figsize=(4.5 * len(rows), 5), layout="constrained"
    )  # not pyplot's, which keeps it and picks a screen
    axes = figure.subplots(2, len(rows), sharex="col", squeeze=False)
    rate = cache.metadata["features"]["sample_rate"]
    for column, row in enumerate(rows):
        clip = test.take([row])
        top, bottom = axes[:, column]
        _spectrogram(top, clip, cache.metadata["features"])
        top.set_title(f"{shorten(labels_of(test, row), 60)}  ({clip.clip_id[0]})", fontsize=9, parse_math=False)
        _line(bottom, teacher_looks(cache, clip), label="teacher (cached)", color="black", linestyle="--")
        for record, distillation in runs:
            name = f"{record.student}, kd_weight {column_of(record).name}"
            _line(bottom, student_looks(cache, distillation, clip), label=name)
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
        handles, names = [*handles, Rectangle((0, 0), 1, 1, facecolor=_EVENT, alpha=0.3)], [*names, "event"]
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 5 * len(rows) // 3))
    return _png(figure), unread


def lengths_figure(comparison: Comparison) -> bytes:
    """Returns a PNG: of each student the test score against clip length, without and with distillation."""
    figure = Figure(figsize=(2.1 * len(comparison.students) + 0.8, 2.9), layout="constrained")
    axes = figure.subplots(1, len(comparison.students), sharey=True, squeeze=False)[0]
    for axis, (student, points) in zip(axes, comparison.students.items(), strict=True):
        for role, places in points.items():
            xs, ys, bars = zip(*places, strict=True)
            bars = [bar or 0 for bar in bars]
            axis.errorbar(xs, ys, bars, marker="o", markersize=4, linewidth=1.5, color=_COLOURS[role], label=role)
        axis.set_title(student_name(student), fontsize=10)
        axis.set_xticks(comparison.places)
        axis.set_xlabel("clip length (s)")
        axis.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel(f"test {unit(comparison.metric)}")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=120)
    return drawn.getvalue()


def _spectrogram(axis, clip: Clips, features: dict) -> None:
    log_mel = clip.features[0, :, : int(clip.lengths)].float().numpy()
    seconds = log_mel.shape[1] * features["hop_length"] / features["sample_rate"]
    low = np.percentile(log_mel, 5)
    axis.imshow(log_mel, origin="lower", aspect="auto", extent=(0, seconds, 0, len(log_mel)), cmap="magma", vmin=low)


def _line(axis, looks: Looks, **style) -> None:
    axis.plot(looks.seconds, looks.density, linewidth=1.5, **style)
