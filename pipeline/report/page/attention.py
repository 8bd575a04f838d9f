"""The page's parts that measure attention: of everyone, and of each of the teacher's layers and heads."""

import numpy as np

from cache_schema import Cache, CacheError
from pipeline.errors import TkdError
from pipeline.report.drawing.charts import heat_map
from pipeline.report.drawing.markup import Content, Markup, element, figure, table
from pipeline.report.numbers.maps import read_maps, read_mixture
from pipeline.report.numbers.results import Cell, Results
from pipeline.report.page.section import Section, pair
from pipeline.report.text.words import student_name

_MEASURES = {
    "in_event": "in event",
    "peak_in_event": "peak in event",
    "peak_distance_seconds": "peak's distance, s",
    "entropy": "entropy",
    "kl_to_teacher": "KL to the teacher",
}


def measures(tables: list[Results]) -> Section:
    """Returns where everyone looks, in numbers: the teacher, and each student by what it was distilled from."""
    parts: list[Content] = []
    for results in tables:
        names = [name for name in _MEASURES if any(cell.measure(name) is not None for cell in results.cells.values())]
        if not names:
            continue
        teacher = results.teacher.get("attention") or {"in_event": results.teacher.get("attention_in_event")}
        first: list[Content] = [f"teacher {results.teacher['name']}", "", *_row(teacher.get, names)]
        rows = {
            (student, column): [student_name(student), column.name, *_row(cell.measure, names)]
            for student in results.students
            for column in results.columns
            if (cell := results.cells.get((student, column)))
        }
        short = [rows[student, column] for student in results.students for column in pair(results, student)]
        run = next(iter(results.cells.values())).runs[0]
        uniform = run.metrics["uniform_attention_in_event"]
        equal = "" if uniform is None else f" Equal weights would put {uniform:.2f} in the event."
        caption = [element("b", f"{results.title}."), f" Attention on the test split, mean over seeds.{equal}"]
        head = ["", "kd", *(_MEASURES[name] for name in names)]
        parts.append(table(head, [first, *short], caption))
        if len(short) < len(rows):
            every = table(head, [first, *rows.values()])
            parts.append(element("details", element("summary", f"All {len(rows)} rows, with the controls"), every))
    if parts:
        parts.append(
            element(
                "p",
                "In event: share of the weight on frames centred in the event. Peak in event: how often the largest "
                "weight is (the pointing game, arXiv 1608.00507); distance: of it from the event, 0 inside. Entropy: "
                "over that of equal weights, 1 is everywhere alike. KL: of the rollout to the student, nats. The "
                "teacher's is the rollout without its readout's own place. Without KD a student's attention is read by "
                "a query trained on its frozen frames: where it could look.",
                class_="note",
            )
        )
    return Section("attention", "Attention, measured", parts)


def maps(tables: list[Results]) -> Section:
    """Returns where the teacher looks, per layer and head, for each cache that stores it and is at hand."""
    parts: list[Content] = []
    for evidence in {id(it.evidence): it.evidence for it in tables}.values():
        if evidence.cache is None:
            continue
        try:
            found = read_maps(evidence.cache, evidence.rows, evidence.events)
        except CacheError as error:
            evidence.remarks.append(f"No map of the teacher's layers and heads: {error}")
            continue
        if found is None:
            missing = "it keeps no weights by layer" if evidence.cache.layout.keep == "rollout" else "no event is known"
            evidence.remarks.append(f"No map of the teacher's layers and heads: {evidence.cache.path}: {missing}.")
            continue
        share, by_head = found.means["in_event"], evidence.cache.layout.keep == "heads"
        charts = [
            _by_head(_MEASURES[measured].capitalize(), values, by_head) for measured, values in found.means.items()
        ]
        best = sorted(_items(share), key=lambda item: -item[1])[:3]
        named = ", ".join(f"{row}{f'.{column}' if by_head else ''} ({value:.2f})" for (row, column), value in best)
        name, what = evidence.cache.metadata["dataset"]["name"], "heads (layer.head)" if by_head else "layers"
        caption = (
            f"{name}, cache {evidence.cache_id[:12]}: attention each frame receives, over {found.n_clips} test clips "
            f"with a known event, measured as above. Most of it is in the event in {what} {named}; tkd train "
            "--frame-weights heads:... or layers:... distils from them."
        )
        parts.append(figure(charts, caption))
    return Section("maps", "Where the teacher looks, by layer and head", parts)


def mixtures(tables: list[Results]) -> Section:
    """Returns how much of each layer and head students with a learned mixture came to be taught."""
    parts: list[Content] = []
    for results in tables:
        cache, charts = results.evidence.cache, []
        if cache is None:
            continue
        learned = [column for column in results.columns if column.frame_weights == "learned"]
        for student in results.students:
            for column in learned:
                cell = results.cells.get((student, column))
                shares = _mixtures_of(cell, cache, results.evidence.remarks) if cell else []
                if shares:
                    title = f"{student_name(student)}, kd {column.name}"
                    charts.append(_by_head(title, np.mean(shares, axis=0), cache.layout.keep == "heads"))
        if charts:
            caption = (
                f"{results.title}: share of each of the teacher's maps in the mixture that was learned with the "
                "student, mean over seeds."
            )
            parts.append(figure(charts, caption))
    return Section("mixtures", "What learned mixtures took", parts)


def _mixtures_of(cell: Cell, cache: Cache, remarks: list[str]) -> list[np.ndarray]:
    found = []
    for run in cell.runs:
        try:
            found.append(read_mixture(run, cache))
        except TkdError as error:
            remarks.append(str(error))
    return found


def _by_head(title: str, values: np.ndarray, by_head: bool) -> Markup:
    """Returns values (n_layers, n_heads) as a map; without heads there is one column."""
    layers = [f"layer {n}" for n in range(values.shape[0])]
    heads = [str(n) for n in range(values.shape[1])] if by_head else ["mean"]
    most = max(1.0, values.max())
    cells = {
        place: (value / most, f"{value:.2f}", f"layer {place[0]}, head {heads[place[1]]}: {value:.3f}")
        for place, value in _items(values)
    }
    return heat_map(title, f"{title}, per layer and head.", layers, heads, cells, "head")


def _row(measure, names: list[str]) -> list[Content]:
    values = [measure(name) for name in names]
    return ["" if value is None else f"{value:.2f}" for value in values]


def _items(values: np.ndarray) -> list[tuple[tuple[int, int], float]]:
    return [(place, float(value)) for place, value in np.ndenumerate(values)]
