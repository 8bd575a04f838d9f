"""What the numbers say, in words."""

from pipeline.report.results import VANILLA, Column, Results
from pipeline.report.statistics import Difference
from pipeline.report.words import difference_text, methods, score, seeds_text, student_name, unit

_CONTROLS = {
    "uniform": "equal weights",
    "shuffled": "the rollout of another clip",
    "event": "the true event, its upper bound",
}


def verdict(results: Results) -> list[str]:
    """Returns sentences: where distilling helps, by how much, where it does not, and how it does against controls."""
    metric = results.metric
    if not results.differences:
        return ["Nothing to compare: no run without distillation (--kd-weight 0) of the same student and seed."]
    found, kept = [], []
    for student in results.students:
        column = results.chosen.get(student)
        difference = results.differences.get((student, column))
        if column == VANILLA and any(name == student for name, _ in results.differences):
            kept.append(student_name(student))
        elif difference is not None:
            vanilla, ours = results.cells[student, VANILLA].mean, results.cells[student, column].mean
            scores = f"{score(metric, vanilla)} to {score(metric, ours)}, weight {column.name}: "
            found.append((difference, student, scores))
    sentences = _by_sign(results, found, "Distilling helps", "It hurts", "No difference can be told for")
    if kept:
        sentences.append(f"For {_listed(kept)} validation chose no distillation.")
    sentences += _controls(results)
    n = len(results.differences)
    sentences.append(
        f"Numbers are {unit(metric)} on the test split, over {seeds_text(results.seeds)}; the weight was chosen on "
        "validation. Differences are to the same student and seed without distillation, with 95 % confidence "
        f"intervals ({methods(results)}); of the table's {n} some {0.05 * n:.1f} would exclude zero by chance. The "
        f"teacher scores {score(metric, results.teacher['test'])}."
    )
    return sentences


def _controls(results: Results) -> list[str]:
    """Returns how the rollout does against targets that are not the teacher's, at the same weight."""
    sentences = []
    for control in results.columns:
        rollout = Column("rollout", control.kd_weight)
        if control.is_control:
            found = [
                (difference, student, "")
                for student in results.students
                if {(student, rollout), (student, control)} <= results.cells.keys()
                and (difference := results.against(student, rollout, control))
            ]
            said = _by_sign(results, found, "better for", "worse for", "no difference can be told for")
            if said:
                named = f"The rollout against {_CONTROLS[control.frame_weights]}, at weight {control.kd_weight:g}: "
                sentences.append(named + "; ".join(sentence.removesuffix(".") for sentence in said) + ".")
    return sentences


def _by_sign(
    results: Results, found: list[tuple[Difference, str, str]], better: str, worse: str, same: str
) -> list[str]:
    """Returns a sentence each for intervals above zero, below it, around it, and for differences without one."""
    sentences = []
    for says, wanted in ((better, 1), (worse, -1), (same, 0), ("Without an interval:", None)):
        who = [
            f"{student_name(student)} ({more}{difference_text(results.metric, difference, results.seeds)})"
            for difference, student, more in found
            if (difference.sign if difference.low is not None else None) == wanted
        ]
        if who:
            sentences.append(f"{says} {_listed(who)}.")
    return sentences


def _listed(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
