"""The page's figure 2 (arXiv 2110.14131): where everyone looks, over spectrograms of clips that can be played."""

import numpy as np

from cache_schema import CacheError
from pipeline.distill.data import Split, load_splits
from pipeline.distill.distillation import Distillation
from pipeline.distill.run import read_run
from pipeline.errors import TkdError
from pipeline.report.drawing.markup import Content, Markup, data_uri, element, figure
from pipeline.report.drawing.svg import Axis, line, path, short, svg, text
from pipeline.report.examples import (
    Looks,
    Recordings,
    example_rows,
    labels_of,
    sound,
    spectrogram,
    student_looks,
    teacher_looks,
)
from pipeline.report.numbers.results import Column, Results
from pipeline.report.page.section import Section, column_legend, pair, style_of
from pipeline.report.text.words import student_name

_N_CLIPS, _MOST_SOUND = 6, 1_400_000  # bytes, in all: base64 makes them a third more
_LEAST = 0.4  # of the teacher's peak that a panel shows; students' peaks are lower, and must be seen
_WIDTH, _LEFT, _SPECTROGRAM, _PANEL = 340, 4, 74, 40


def overlays(tables: list[Results], recordings: Recordings | None) -> Section:
    """Returns figure 2 of arXiv 2110.14131 for clips of the recordings, with sound; else of the first cache."""
    at_hand = [it for it in tables if it.evidence.cache is not None]
    if not at_hand:
        return Section("clips", "Where everyone looks", [])
    audible = [it for it in at_hand if recordings is not None and recordings.are_of(it.evidence.cache)]
    results = (audible or at_hand)[0]
    evidence = results.evidence
    try:
        split = load_splits(evidence.cache, names=("test",))["test"]
    except (TkdError, CacheError) as error:
        evidence.remarks.append(f"No clips are shown: {error}")
        return Section("clips", "Where everyone looks", [])
    students: dict[str, list[tuple[Column, Distillation]]] = {}
    for student in results.students:
        for column in pair(results, student):
            try:
                distillation = read_run(results.cells[student, column].runs[0].path).on(evidence.cache)
                students.setdefault(student, []).append((column, distillation))
            except (TkdError, TypeError) as error:
                evidence.remarks.append(f"Not drawn over the clips: {error}")
    shown, heard = [], 0
    for row in example_rows(split, _N_CLIPS):
        try:
            player, size = _player(results, split, row, recordings, _MOST_SOUND - heard)
            shown.append(_clip(results, split, row, students, player))
        except CacheError as error:
            evidence.remarks.append(f"Not shown: {split.clip_id[row]}: {error}")
            continue
        heard += size
    first = {student: results.cells[student, pairs[0][0]].runs[0].seed for student, pairs in students.items()}
    drawn = {column for pairs in students.values() for column, _ in pairs}
    columns = [column for column in results.columns if column in drawn]
    caption = (
        f"{results.title}: log-mel spectrogram, event (green) and frame weights of the first test clip of each of the "
        f"last {len(shown)} labels. Dashed: the teacher's cached rollout, without its readout's own place; its peaks "
        f"may be cut. Students of seed {', '.join(map(str, sorted(set(first.values()))))}."
        + ("" if heard else " Give --data, the prepared data set, to hear the clips.")
    )
    parts = [column_legend(results, columns), figure(shown, caption)] if shown else []
    return Section("clips", "Where everyone looks", parts)


def _clip(results: Results, split: Split, row: int, students: dict, player: Content) -> Markup:
    """Returns a clip's spectrogram with a panel for each student below, and its player."""
    cache, clip = results.evidence.cache, split.take([row])
    features, rate = cache.metadata["features"], cache.metadata["features"]["sample_rate"]
    seconds = ((int(clip.lengths) - 1) * features["hop_length"] + 2 * features["frame_offset"] + 1) / rate
    axis = Axis(0, seconds, _LEFT, _WIDTH - _LEFT)
    teacher = teacher_looks(cache, clip)
    panels = [(student, [(c, student_looks(cache, d, clip)) for c, d in given]) for student, given in students.items()]
    bottom = _SPECTROGRAM + _PANEL * max(1, len(panels))
    hop = features["hop_length"] / rate
    start = features["frame_offset"] / rate - hop / 2
    parts: list[Content] = [
        element("title", f"Frame weights over the spectrogram of {clip.clip_id[0]}"),
        element("desc", "Spectrogram on top; below it the frame weights of the teacher and of each student over time."),
        element(
            "image",
            href=spectrogram(clip),
            x=f"{axis.at(max(0, start)):.1f}",
            y=0,
            width=f"{axis.at(hop * int(clip.lengths)) - axis.at(0):.1f}",
            height=_SPECTROGRAM - 4,
            preserveAspectRatio="none",
        ),
    ]
    early = int(clip.event_start) + int(clip.event_stop) < seconds * rate  # names stand where the event is not
    if int(clip.event_start) >= 0:
        left, right = (axis.at(int(place) / rate) for place in (clip.event_start, clip.event_stop))
        area = {"x": f"{left:.1f}", "y": _SPECTROGRAM, "width": f"{right - left:.1f}", "height": bottom - _SPECTROGRAM}
        parts.append(element("rect", **area, class_="event"))
        parts += [line(x, 0, x, bottom, "edge") for x in (left, right)]
    for n, (student, looks) in enumerate(panels or [("teacher", [])]):
        floor = _SPECTROGRAM + _PANEL * (n + 1)
        highest = max([_LEAST * float(teacher.density.max()), *(float(it.density.max()) for _, it in looks)])
        parts.append(line(_LEFT, floor, _WIDTH - _LEFT, floor, "grid"))
        place = (_WIDTH - _LEFT, "end") if early else (_LEFT, None)
        parts.append(text(place[0], floor - _PANEL + 11, student_name(student), place[1], class_="here"))
        parts.append(_weights(teacher, axis, floor, highest, "line control", "stroke:var(--ink);stroke-width:1"))
        for column, one in looks:
            colour = f"stroke:var(--{style_of(results, column)[0]});stroke-width:1.5"
            parts.append(_weights(one, axis, floor, highest, "line", colour))
    parts.append(
        line(
            0,
            0,
            0,
            bottom,
            "now",
            data_from=f"{axis.start:g}",
            data_width=f"{axis.stop - axis.start:g}",
            data_seconds=seconds,
        )
    )
    for value in axis.ticks():
        parts.append(text(axis.at(value), bottom + 12, f"{short(value)} s" if value == 0 else short(value), "middle"))
    said = labels_of(split, row)
    return element(
        "div", element("h3", f"{said} ({clip.clip_id[0]})"), svg(_WIDTH, bottom + 16, parts), player, class_="clip"
    )


def _weights(looks: Looks, axis: Axis, floor: float, highest: float, class_: str, style: str) -> Markup:
    heights = floor - (_PANEL - 8) * np.minimum(looks.density / highest, 1.1)
    places = [(axis.at(x), float(y)) for x, y in zip(looks.seconds, heights, strict=True)]
    return element("path", d=path(places), class_=class_, style=style)


def _player(results: Results, split: Split, row: int, recordings: Recordings | None, room: int) -> tuple[Content, int]:
    """Returns a clip's player, and the size of its sound; nothing, with a remark, where it cannot be had."""
    if recordings is None:
        return None, 0
    evidence, clip_id = results.evidence, str(split.clip_id[row])
    try:
        content = sound(evidence.cache, int(evidence.rows[row]), clip_id, recordings)
    except TkdError as error:
        evidence.remarks.append(f"Not to be heard: {error}")
        return None, 0
    if len(content) > room:
        evidence.remarks.append(f"Not to be heard: {clip_id}: the page would grow too large.")
        return None, 0
    source = data_uri("audio/flac", content)
    return element("audio", controls=True, preload="metadata", src=source, aria_label=f"clip {clip_id}"), len(content)
