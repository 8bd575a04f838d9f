"""What a reader must know before the numbers: the data, and what the words mean."""

from cache_schema import SPLITS
from pipeline.report.numbers.evidence import Evidence
from pipeline.report.numbers.results import VANILLA, Results

_TARGETS = {
    "rollout": "the rollout, the teacher's attention traced through all of its layers (the papers' choice)",
    "layers": "layers:N, what one layer attends to",
    "heads": "heads:N.M, what head M of layer N attends to",
    "learned": "learned, a mixture of all heads that is found in training",
}
_CONTROLS = {
    "uniform": "uniform, equal weights",
    "shuffled": "shuffled, the rollout of another clip",
    "event": "event, the labelled sound itself",
}


def introduction(tables: list[Results]) -> list[str]:
    """Returns sentences on the data sets, the comparison and the frame weights that stand in the tables."""
    evidences = {it.evidence.cache_id: it.evidence for it in tables if it.evidence.cache is not None}
    said = [_of_data(evidence) for evidence in evidences.values()]
    said.append(
        "Each student was trained with a loss of the labels alone (vanilla, kd 0), and with the same seed also to look "
        "where the teacher looked, with the weight kd in the loss. Its frame weights come from a cache; it did not run."
    )
    if any(it.settings["logit_kd"] for it in tables):
        said.append(
            "With logit_kd above 0 all were also taught the teacher's logits, those that are called vanilla, too."
        )
    taught = {column.frame_weights.partition(":")[0] for it in tables for column in it.columns if column != VANILLA}
    targets = [words for name, words in _TARGETS.items() if name in taught]
    controls = [words for name, words in _CONTROLS.items() if name in taught]
    if taught - {"rollout"}:
        said.append(f"Frame weights that were taught: {'; '.join(targets)}." if targets else "")
        said.append(f"Controls, which are not the teacher's: {'; '.join(controls)}." if controls else "")
    return [sentence for sentence in said if sentence]


def _of_data(evidence: Evidence) -> str:
    cache = evidence.cache
    views = cache.read("view")
    train, validation, test = (int((views[cache.split_rows(split)] == 0).sum()) for split in SPLITS)
    length = f" of {evidence.length_words}" if evidence.seconds else ""
    synthetic = " Its speech and noise are synthetic." if evidence.recipe.get("kind") == "synth" else ""
    name = cache.metadata["dataset"]["name"]
    return (
        f"Data set {name}: {len(cache.labels)} labels; {train:,} clips{length} for training, {validation:,} for "
        f"validation, {test:,} for test.{synthetic}"
    )
