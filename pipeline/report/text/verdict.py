"""What the numbers say, in words."""

import numpy as np

from pipeline.report.numbers.results import VANILLA, Column, Results
from pipeline.report.numbers.statistics import Difference
from pipeline.report.text.words import difference_text, methods, score, seeds_text, student_name, target_words, unit

_CONTROLS = {
    "uniform": "equal weights",
    "shuffled": "the rollout of another clip",
    "event": "the true event",
}

# By the sign of an interval; None: there is none (see `paired`).
_TO_VANILLA = {1: "Distilling helps", -1: "Distilling hurts", 0: "No difference can be told for"}
_TO_VANILLA |= {None: "No interval:"}
_TO_OTHERS = {1: "better for", -1: "worse for", 0: "no difference can be told for", None: "no interval for"}


def verdict(results: Results) -> list[str]:
    """Returns sentences: where distilling helps, by how much, where it does not, and how it does against controls."""
    metric = results.metric
    if not results.differences:
        return ["Nothing to compare: no run without distillation (--kd-weight 0) of the same student and seed."]
    found, kept, tied = [], [], []
    for student in results.students:
        column = results.chosen.get(student)
        difference = results.differences.get((student, column))
        if column == VANILLA and any(name == student and not it.is_control for name, it in results.differences):
            (tied if _tied(results, student) else kept).append(student_name(student))
        elif difference is not None:
            pairs = results.pairs(student, column, VANILLA)
            ours, vanilla = (np.mean([run.metrics["test"] for run in runs]) for runs in zip(*pairs, strict=True))
            scores = f"{score(metric, vanilla)} to {score(metric, ours)}, {target_words(column)}: "
            found.append((difference, student, scores))
    sentences = _by_sign(results, found, _TO_VANILLA)
    if kept:
        sentences.append(f"For {_listed(kept)} validation chose no distillation.")
    if tied:
        sentences.append(
            f"For {_listed(tied)} validation scores vanilla and distilled exactly alike; of equals the weaker counts."
        )
    sentences += _losses(results)
    others, n_others = _targets(results)
    sentences += others
    n = len(results.differences) + n_others
    sentences.append(
        f"Numbers are {unit(metric)} on the test split, over {seeds_text(results.seeds)}; the weight was chosen on "
        f"validation. Differences are to the same student and seed {results.vanilla_words}, with 95 % confidence "
        f"intervals ({methods(results)}). A difference counts where every interval excludes zero; of "
        f"{n} comparisons some {0.05 * n:.1f} would by chance. The teacher scores "
        f"{score(metric, results.teacher['test'])}."
    )
    return sentences


def _tied(results: Results, student: str) -> bool:
    """Returns whether a distilled column has the validation score of vanilla, which was chosen."""
    best = results.best(student, [column for column in results.columns if column != VANILLA])
    return best is not None and results.best(student, [best, VANILLA]) == best  # of equals the first


def _losses(results: Results) -> list[str]:
    """Returns how far the students compared had learned when their training ended."""
    if not results.evidence.trained_from:
        return []
    said = []
    for student, column in results.chosen.items():
        if (student, column) in results.differences:
            pairs = results.pairs(student, column, VANILLA)
            ends = [
                [run.history[-1].get("task_loss") for run in runs if run.history] for runs in zip(*pairs, strict=True)
            ]
            if all(ends) and all(isinstance(loss, int | float) for losses in ends for loss in losses):
                ours, vanilla = map(np.mean, ends)
                said.append(f"{student_name(student)} {vanilla:.2f} and {ours:.2f}")
    if not said:
        return []
    return [
        f"Task loss in the last epoch of training, {results.vanilla_words} and with it: {'; '.join(said)}. Where it is "
        "still large without, some of a difference may be one of speed, and be gone after longer training."
    ]


def _targets(results: Results) -> tuple[list[str], int]:
    """Returns how the rollout does against controls at the same weight, how other maps do against the rollout, and how
    many comparisons that are."""
    sentences, n = [], 0
    for other in results.columns:
        rollout = Column("rollout", other.kd_weight)
        if other.frame_weights == "rollout":
            continue
        ours, theirs = (rollout, other) if other.is_control else (other, rollout)
        found = [
            (difference, student, "")
            for student in results.students
            if {(student, ours), (student, theirs)} <= results.cells.keys()
            and (difference := results.against(student, ours, theirs))
        ]
        n += len(found)
        said = [it.removesuffix(".") for it in _by_sign(results, found, _TO_OTHERS)]
        if said:
            compared = (
                f"The rollout against {_CONTROLS[other.frame_weights]}"
                if other.is_control
                else f"{other.frame_weights} against the rollout"
            )
            sentences.append(f"{compared}, at weight {other.kd_weight:g}: {'; '.join(said)}.")
    return sentences, n


def _by_sign(results: Results, found: list[tuple[Difference, str, str]], says: dict[int | None, str]) -> list[str]:
    """Returns a sentence each for intervals above zero, below it and around it, and for differences without one."""
    sentences = []
    for wanted, words in says.items():
        who = [
            f"{student_name(student)} ({more}{difference_text(results.metric, difference, results.seeds)})"
            for difference, student, more in found
            if (difference.sign if difference.low is not None else None) == wanted
        ]
        if who:
            sentences.append(f"{words} {_listed(who)}.")
    return sentences


def _listed(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
