"""The result table: the teacher, then each run, as Markdown."""

from typing import Any

from pipeline.markdown import markdown_table
from pipeline.report.numbers.records import Record
from pipeline.report.numbers.settings import differing, in_words, settings_of


def table(runs: list[Record]) -> str:
    """Returns a Markdown table of runs of one cache: its teacher, then the runs by student, kd_weight and seed."""
    metric = runs[0].metrics["metric"]  # one cache, one task
    head = ("model", "kd_weight", "seed", f"test {metric}", "attention in event", "parameters", "training")
    rows = [head, _teacher_row(runs[0].metrics)]
    key = ("student", "kd_weight", "seed")
    runs = sorted(runs, key=lambda run: (*(run.metrics[name] for name in key), run.frame_weights))
    rows += [_run_row(run.metrics) for run in runs]
    special = differing([{"frame_weights": run.frame_weights, **settings_of(run)} for run in runs])
    if special[0]:
        words = ("settings that differ", "", *map(in_words, special))
        rows = [(*row, word) for row, word in zip(rows, words, strict=True)]
    return markdown_table(rows[0], rows[1:])


def footnotes(runs: list[Record]) -> str:
    """Returns what the columns of a cache's table mean, and how often the teacher ran while students were trained."""
    metrics = runs[0].metrics
    often = (
        "some of them imported the teacher's code" if any(r.metrics["teacher"]["imported"] for r in runs) else "never"
    )
    lines = [f"Dataset {metrics['dataset']}, cache {metrics['cache_id'][:12]}."]
    if metrics["metric"] == "mAP":
        lines[0] += " mAP: the mean over the classes that the test split has (macro)."
    if metrics["uniform_attention_in_event"] is not None:
        lines[0] += (
            " Attention in event: share of the weight on frames inside the labelled sound, the teacher's without its "
            f"readout's own place; equal weights would give {metrics['uniform_attention_in_event']:.2f}. "
            "At kd_weight 0 the student's attention is read by a query trained on its frozen frames."
        )
    return "\n".join([*lines, f"Times the teacher ran while the students trained: {often}."])


def _share(metrics: dict[str, Any]) -> str:
    share = metrics["attention_in_event"]
    return "unknown" if share is None else f"{share:.2f}"


def _teacher_row(metrics: dict[str, Any]) -> tuple[str, ...]:
    teacher = metrics["teacher"]
    parameters = f"{teacher['n_params']:,}" if teacher["n_params"] else "unknown"
    return "teacher", "", "", f"{teacher['test']:.4f}", _share(teacher), parameters, "before"


def _run_row(metrics: dict[str, Any]) -> tuple[str, ...]:
    return (
        metrics["student"],
        f"{metrics['kd_weight']:g}",
        str(metrics["seed"]),
        f"{metrics['test']:.4f}",
        _share(metrics),
        f"{metrics['n_params']:,}",
        f"{metrics['seconds']:.0f} s",
    )
