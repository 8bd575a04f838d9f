"""index.html: everything on one page that asks for no other file."""

from collections.abc import Sequence

from pipeline.report.drawing.markup import Content, Markup, element, page
from pipeline.report.examples import Recordings
from pipeline.report.numbers.records import Record
from pipeline.report.numbers.results import Results
from pipeline.report.page.attention import maps, measures, mixtures
from pipeline.report.page.clips import overlays
from pipeline.report.page.curves import by_fraction, by_length, costs, learning_curves
from pipeline.report.page.errors import by_noise, confusions
from pipeline.report.page.introduction import introduction
from pipeline.report.page.look import SCRIPT, STYLE
from pipeline.report.page.scores import elsewhere, score_tables, summary
from pipeline.report.page.section import Section
from pipeline.report.text.provenance import place, train_command
from pipeline.report.text.words import score, student_name
from students import STUDENTS


def index_page(
    records: list[Record],
    tables: list[Results],
    elsewhere_tables: list[Results],
    recordings: Recordings | None,
    remarks: Sequence[str],
    command: str,
) -> Markup:
    """Returns the page.

    Args:
        records: All runs.
        tables: What they come to.
        elsewhere_tables: What they come to on other caches.
        recordings: The prepared data set, for sound and SNR; None where it is not given.
        remarks: What was left out so far, and why.
        command: That makes it.
    """
    sections = [
        summary(tables),
        score_tables(tables),
        elsewhere(elsewhere_tables, len(tables) + 1),
        learning_curves(tables),
        by_length(tables),
        by_fraction(tables),
        costs(tables),
        measures(tables),
        overlays(tables, recordings),
        maps(tables),
        mixtures(tables),
        confusions(tables),
        by_noise(tables, recordings),
        provenance(records, elsewhere_tables, command),
    ]
    missing = left_out(records, tables, recordings, remarks)
    sections.append(Section("missing", "Left out", [element("ul", [element("li", said) for said in missing])]))
    shown = [it for it in sections if it.content and (it.name != "missing" or missing)]
    datasets = ", ".join(dict.fromkeys(results.dataset for results in tables))
    title = f"Temporal knowledge distillation: {datasets}"
    runs, caches = _count(len(records), "run"), _count(len(_caches(records)), "cache")
    students = _count(len({record.student for record in records}), "student")
    head = element(
        "header",
        element("h1", title),
        element("p", f"{runs} of {students} from {caches}.", class_="lead"),
        [element("p", sentence) for sentence in introduction(tables)],
        element("nav", [element("a", it.title, href=f"#{it.name}") for it in shown], aria_label="sections"),
    )
    body = [element("section", element("h2", it.title), it.content, id=it.name) for it in shown]
    foot = element("footer", "Made by tkd report. Every number is of the runs listed under Provenance.")
    return page(title, [head, element("main", body), foot], STYLE, SCRIPT)


def provenance(records: list[Record], elsewhere_tables: list[Results], command: str) -> Section:
    """Returns where every number is from, and the command that makes it again."""
    caches = [
        element("li", element("code", cache_id), ", of ", _dataset(records, cache_id)) for cache_id in _caches(records)
    ]
    others = {it.evidence.cache_id: it for it in elsewhere_tables}
    caches += [
        element("li", element("code", cache_id), f", of {it.dataset}, scored on: {place(it.evidence.cache.location)}")
        for cache_id, it in others.items()
    ]
    runs = [element("li", _described(record)) for record in records]
    return Section(
        "provenance",
        "Provenance",
        [
            element("p", "Caches (cache_id: of content and origin, the same in any container):"),
            element("ul", caches),
            element("p", "This page: ", element("code", command)),
            element(
                "details", element("summary", f"All {_count(len(records), 'run')}"), element("ol", runs, class_="runs")
            ),
        ],
    )


def _described(record: Record) -> Content:
    """Returns a run's scores, and the command that makes it again in its directory."""
    metrics = record.metrics
    validation, test = (score(metrics["metric"], metrics[split]) for split in ("validation", "test"))
    target = record.frame_weights if record.kd_weight else "vanilla"
    processes = record.made_with.get("processes", 1)
    return [
        element("b", f"{student_name(record.student)}, kd {record.kd_weight:g}, {target}, seed {record.seed}"),
        f": {metrics['metric']} {validation} on validation, {test} on test; cache ",
        element("code", metrics["cache_id"][:12]),
        element("br"),
        element("code", train_command(record.config, str(record.path), metrics.get("threads"), processes)),
    ]


def left_out(
    records: list[Record], tables: list[Results], recordings: Recordings | None, remarks: Sequence[str]
) -> list[str]:
    """Returns what the page lacks and why, a line each."""
    said = list(remarks)
    for what, file, lacking in (
        ("learning curves", "history.json", [it for it in records if not it.history]),
        (
            "confusions, intervals of a single seed, accuracy by SNR",
            "test.safetensors",
            [it for it in records if not (it.path / "test.safetensors").is_file()],
        ),
        (
            "attention measures but the share in the event",
            "attention in metrics.json",
            [it for it in records if "attention" not in it.metrics],
        ),
    ):
        if lacking:
            said.append(f"No {what} of {len(lacking)} runs of an earlier version (no {file}): {lacking[0].path}, ...")
    own = sorted({record.student for record in records} - set(STUDENTS))
    if own:
        said.append(f"No size, work or attention over clips of {', '.join(own)}: no student of tkd's own.")
    for evidence in {id(it.evidence): it.evidence for it in tables}.values():
        said += evidence.remarks
    if recordings is None:
        said.append("No sound and no scores by SNR: give the prepared data set with --data.")
    return list(dict.fromkeys(said))


def _caches(records: list[Record]) -> list[str]:
    return list(dict.fromkeys(record.metrics["cache_id"] for record in records))


def _dataset(records: list[Record], cache_id: str) -> str:
    run = next(record for record in records if record.metrics["cache_id"] == cache_id)
    dataset, teacher, cache = run.metrics["dataset"], run.metrics["teacher"]["name"], str(run.config.get("cache"))
    return f"{dataset}, teacher {teacher}, trained from {place(cache)}"


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
