"""A report's numbers: planted scores come back, by a second route, and nothing is compared that is not alike."""

import csv
import dataclasses
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from report_runs import LABELS, make_cache, make_run
from safetensors.numpy import save_file
from scipy import stats

from pipeline.cli.main import tkd
from pipeline.cli.train import train_command as train_cli
from pipeline.distill.config import TrainConfig
from pipeline.distill.train import train
from pipeline.errors import TkdError
from pipeline.report.folder import report
from pipeline.report.numbers.elsewhere import EvidenceElsewhere
from pipeline.report.numbers.evidence import Evidence
from pipeline.report.numbers.maps import read_maps
from pipeline.report.numbers.published import FSD50K, NSCV2, published
from pipeline.report.text.provenance import train_command
from pipeline.report.text.words import MINUS, change


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return make_cache(tmp_path_factory.mktemp("caches") / "planted.zarr", length_seconds=1.0)


def cells(out) -> dict[tuple[str, str, str], dict[str, str]]:
    rows = csv.DictReader((out / "results.csv").open(encoding="utf-8"))
    return {(row["settings"], row["frame_weights"], row["kd_weight"]): row for row in rows}


def grid(folder, cache, scores: dict[tuple[str, float], list[float]], **settings) -> None:
    """Runs without files beside the numbers: a list of scores by seed for each frame_weights and kd_weight."""
    for (target, weight), values in scores.items():
        for seed, score in enumerate(values):
            name = f"{target}-{weight}-{seed}".replace(":", "")
            chosen = {"frame_weights": target, "kd_weight": weight, "seed": seed}
            make_run(folder / name, cache, score, parts=(), **chosen, **settings)


def test_means_spreads_and_paired_intervals_are_those_of_scipy(cache, tmp_path):
    vanilla, distilled = [0.5, 0.6, 0.45], [0.7, 0.725, 0.7]
    grid(tmp_path / "runs", cache, {("rollout", 0.0): vanilla, ("rollout", 0.25): distilled})
    report([tmp_path / "runs"], tmp_path / "out")
    found = cells(tmp_path / "out")["", "rollout", "0.25"]
    assert float(found["test"]) == pytest.approx(np.mean(distilled))
    assert float(found["test_deviation"]) == pytest.approx(stats.tstd(distilled))
    interval = stats.ttest_rel(distilled, vanilla).confidence_interval(0.95)
    assert float(found["difference_low"]) == pytest.approx(interval.low)
    assert float(found["difference_high"]) == pytest.approx(interval.high)
    assert (found["difference_n_seeds"], found["difference_method"]) == ("3", "t")
    text = (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    assert "70.83 ± 1.44" in text and "Distilling helps tc_resnet8 (51.67 to 70.83" in text


def test_the_weight_is_chosen_on_validation(cache, tmp_path):
    for weight, test, validation in ((0.0, 0.5, 0.5), (0.1, 0.6, 0.9), (0.5, 0.9, 0.6)):
        make_run(tmp_path / "runs" / str(weight), cache, test, validation=validation, kd_weight=weight)
    make_run(tmp_path / "runs" / "control", cache, 0.9, validation=1.0, kd_weight=0.1, frame_weights="event")
    report([tmp_path / "runs"], tmp_path / "out")
    chosen = [place for place, row in cells(tmp_path / "out").items() if row["chosen_on_validation"] == "1"]
    assert chosen == [("", "rollout", "0.1")]


def test_weights_are_compared_on_the_seeds_that_all_have(cache, tmp_path):
    """The third seed is a good one; 0.1 has it alone, as after a sweep that was interrupted."""
    scores = {0.0: {0: 0.5, 1: 0.525, 2: 0.8}, 0.1: {2: 0.825}, 0.5: {0: 0.6, 1: 0.625, 2: 0.9}}
    for weight, by_seed in scores.items():
        for seed, score in by_seed.items():
            make_run(
                tmp_path / "runs" / f"{weight}-{seed}", cache, score, validation=score, kd_weight=weight, seed=seed
            )
    report([tmp_path / "runs"], tmp_path / "out")
    chosen = [place for place, row in cells(tmp_path / "out").items() if row["chosen_on_validation"] == "1"]
    assert chosen == [("", "rollout", "0.5")]
    text = (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    assert "tc_resnet8 (60.83 to 70.83, weight 0.5" in text
    shutil.rmtree(tmp_path / "runs" / "0.5-0")
    report([tmp_path / "runs"], tmp_path / "out")
    text = (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    assert "tc_resnet8 (66.25 to 76.25, weight 0.5" in text, "of the seeds that both have"


def test_of_equals_on_validation_the_weaker_is_chosen_whatever_their_sums_round_to(cache, tmp_path):
    right = {0.0: (489, 494, 487), 0.25: (488, 486, 496), 0.5: (486, 495, 489)}  # of 600: 1,470 each
    means = {weight: np.mean([n / 600 for n in counts]) for weight, counts in right.items()}
    assert means[0.0] < means[0.25], "by rounding alone"
    for weight, counts in right.items():
        for seed, n in enumerate(counts):
            run = tmp_path / "runs" / f"{weight}-{seed}"
            make_run(run, cache, 0.5, validation=n / 600, parts=(), kd_weight=weight, seed=seed)
    report([tmp_path / "runs"], tmp_path / "out")
    chosen = [place for place, row in cells(tmp_path / "out").items() if row["chosen_on_validation"] == "1"]
    assert chosen == [("", "rollout", "0.0")]
    said = (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    assert "validation scores vanilla and distilled exactly alike" in said and "chose no distillation" not in said


def test_beside_controls_alone_validation_chooses_nothing(cache, tmp_path):
    grid(tmp_path / "runs", cache, {("rollout", 0.0): [0.5, 0.6], ("event", 0.25): [0.6, 0.8]})
    report([tmp_path / "runs"], tmp_path / "out")
    assert {row["chosen_on_validation"] for row in cells(tmp_path / "out").values()} == {"0"}
    assert "chose no" not in (tmp_path / "out" / "results.md").read_text(encoding="utf-8")


def test_a_gain_of_every_seed_that_few_clips_make_is_no_difference(cache, tmp_path):
    """Two or three clips of forty in each of three seeds: over seeds the interval excludes zero, over clips not."""
    for weight, scores in ((0.0, (0.5, 0.5, 0.5)), (0.25, (0.55, 0.55, 0.575))):
        for seed, score in enumerate(scores):
            make_run(tmp_path / "runs" / f"{weight}-{seed}", cache, score, kd_weight=weight, seed=seed)
    report([tmp_path / "runs"], tmp_path / "out")
    row = cells(tmp_path / "out")["", "rollout", "0.25"]
    assert float(row["difference_low"]) == pytest.approx(0.0225, abs=1e-4)
    assert float(row["difference_over_clips_low"]) < 0
    text = (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    assert "No difference can be told for tc_resnet8 (50.00 to 55.83" in text and "+9.42]\\*" not in text
    assert "of 1 comparisons some 0.1 would by chance" in text
    assert "Task loss in the last epoch of training, without distillation and with it: tc_resnet8 0.03 and 0.03" in text


def test_vanilla_that_is_taught_logits_is_called_so(cache, tmp_path):
    scores = {("rollout", 0.0): [0.5, 0.6], ("rollout", 0.25): [0.6, 0.8]}
    grid(tmp_path / "runs", cache, scores, logit_kd=0.2)
    report([tmp_path / "runs"], tmp_path / "out")
    text = (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    assert "the same student and seed without temporal distillation" in text and "without distillation" not in text
    assert "0 is vanilla but for the logits" in text
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "With logit_kd above 0 all were also taught the" in page


def test_caches_of_one_name_have_titles_of_their_own(tmp_path):
    for name in ("clean", "noisy"):
        cache = make_cache(tmp_path / f"{name}.zarr", length_seconds=1.0, snr_db=name)
        make_run(tmp_path / "runs" / name, cache, 0.5, parts=())
    report([tmp_path / "runs"], tmp_path / "out")
    titles = re.findall(r"^## (.*)", (tmp_path / "out" / "results.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(set(titles)) == 2 and all(re.fullmatch(r"planted, 1 s, cache [0-9a-f]{8}", title) for title in titles)


def test_runs_made_with_something_else_are_named(cache, tmp_path):
    for seed, made_with in enumerate([{"tkd": "0.1.0", "processes": 4}, {"tkd": "0.1.0", "processes": 1}, {}]):
        file = make_run(tmp_path / "runs" / f"{seed}", cache, 0.5, parts=(), seed=seed) / "metrics.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **({"made_with": made_with} if made_with else {})}))
    said = report([tmp_path / "runs"], tmp_path / "out")
    assert (
        "planted, 1 s: its runs were not all made with the same processes: 4 (1 run), 1 (1 run), not stated (1 run)."
        in said
    )
    assert any("made with the same tkd: 0.1.0 (2 runs), not stated (1 run)." in line for line in said)
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert page.count("torchrun --nproc_per_node 4 -m pipeline.cli.main train --cache") == 1


def test_the_weight_framed_elsewhere_is_that_of_home_though_a_run_of_it_is_damaged(cache, tmp_path):
    there = make_cache(tmp_path / "there.zarr", n_test=12, dataset="there")
    scores = {0.1: (0.5, 0.9), 0.5: (0.9, 0.7)}
    for weight, validations in scores.items():
        for seed, validation in enumerate(validations):
            run = tmp_path / "runs" / f"{weight}-{seed}"
            make_run(run, cache, 0.5, validation=validation, kd_weight=weight, seed=seed)
    (tmp_path / "runs" / "0.5-0" / "model.safetensors").write_bytes(b"")
    report([tmp_path / "runs"], tmp_path / "out", others=[there])
    rows = list(csv.DictReader((tmp_path / "out" / "results.csv").open(encoding="utf-8")))
    chosen = {(row["dataset"], row["kd_weight"]) for row in rows if row["chosen_on_validation"] == "1"}
    assert chosen == {("planted", "0.5"), ("there", "0.5")}


def test_what_is_taught_otherwise_has_a_table_of_its_own(cache, tmp_path):
    targets = {("rollout", 0.0): 0.5, ("rollout", 0.1): 0.5, ("rollout", 0.25): 0.6, ("heads:1.2", 0.25): 0.7}
    grid(tmp_path / "runs", cache, {place: [score] for place, score in {**targets, ("uniform", 0.25): 0.55}.items()})
    report([tmp_path / "runs"], tmp_path / "out")
    text = (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    heads = [re.split(r" *\| *", line.strip("| ")) for line in text.splitlines() if line.startswith("| student")]
    assert heads == [["student", "0", "0.1", "0.25", "chosen on validation"], ["student", "0.1", "0.25"]]
    others = text[text.index("| frame weights, kd weight") :].splitlines()[2:5]
    assert [line.split(" |")[0].strip("| ") for line in others] == ["rollout 0.25", "heads:1.2 0.25", "uniform 0.25"]
    assert "70.00 (+20.00) |" in others[1]
    assert "heads:1.2 at weight 0.25" in text


def test_runs_of_other_settings_have_a_table_of_their_own(cache, tmp_path):
    for name, settings in {"a": {}, "b": {"views": False}, "c": {"fraction": 0.1}}.items():
        scores = {("rollout", 0.0): [0.5, 0.5], ("rollout", 0.25): [0.6, 0.6], ("uniform", 0.25): [0.5, 0.4]}
        grid(tmp_path / "runs" / name, cache, scores, **settings)
    lines = report([tmp_path / "runs"], tmp_path / "out")
    tables = {place[0] for place in cells(tmp_path / "out")}
    assert tables == {"fraction 1, views on", "fraction 1, views off", "fraction 0.1, views on"}
    assert all(row["seeds"] == "2" for row in cells(tmp_path / "out").values())
    assert "| settings that differ" in lines[0] and "views off" in lines[0]


def test_a_run_made_twice_counts_once_and_is_named(cache, tmp_path):
    for name in ("first", "second"):
        make_run(tmp_path / "runs" / name, cache, 0.5)
    lines = report([tmp_path / "runs"], tmp_path / "out")
    assert [line for line in lines if line.startswith(f"Counted once: {tmp_path / 'runs' / 'second'} has the settings")]
    assert cells(tmp_path / "out")["", "rollout", "0.25"]["seeds"] == "1"


def test_without_kd_the_run_beside_the_rollout_counts(cache, tmp_path):
    """Augmentation looks at the frame weights without KD, too: with others it is another vanilla."""
    for name, target in (("first", "layers:1"), ("second", "rollout")):
        make_run(tmp_path / "runs" / name, cache, 0.5, kd_weight=0.0, frame_weights=target, parts=())
    (said,) = (line for line in report([tmp_path / "runs"], tmp_path / "out") if line.startswith("Counted once"))
    runs = tmp_path / "runs"
    assert said.startswith(f"Counted once: {runs / 'first'} has") and f"{runs / 'second'}, but for the frame" in said


def test_vanilla_runs_serve_settings_that_change_nothing_without_kd_and_no_others(cache, tmp_path):
    usual = {"alignment": "area", "epochs": 12}
    grid(tmp_path / "runs" / "a", cache, {("rollout", 0.0): [0.5, 0.6], ("rollout", 0.25): [0.6, 0.7]}, **usual)
    grid(tmp_path / "runs" / "b", cache, {("rollout", 0.25): [0.6, 0.8]}, **{**usual, "alignment": "linear"})
    grid(tmp_path / "runs" / "c", cache, {("rollout", 0.25): [0.6, 0.8]}, **{**usual, "epochs": 5})
    report([tmp_path / "runs"], tmp_path / "out")
    found = cells(tmp_path / "out")
    assert found["alignment linear, epochs 12", "rollout", "0.25"]["difference_n_seeds"] == "2"
    assert found["alignment area, epochs 5", "rollout", "0.25"]["difference_n_seeds"] == ""


@pytest.mark.parametrize(("augment", "serves"), [(["gain"], "2"), (["gain", "crop"], "")])
def test_vanilla_serves_another_first_frame_unless_augmentation_looks_at_it(cache, tmp_path, augment, serves):
    scores = {("rollout", 0.0): [0.5, 0.6], ("rollout", 0.25): [0.6, 0.7]}
    grid(tmp_path / "runs" / "a", cache, scores, augment=augment)
    grid(tmp_path / "runs" / "b", cache, {("rollout", 0.25): [0.6, 0.8]}, augment=augment, first_frame="keep")
    report([tmp_path / "runs"], tmp_path / "out")
    assert cells(tmp_path / "out")["first_frame keep", "rollout", "0.25"]["difference_n_seeds"] == serves


def test_vanilla_seeds_of_every_table_that_serves_are_taken(cache, tmp_path):
    make_run(tmp_path / "runs" / "a", cache, 0.5, parts=(), kd_weight=0.0, attention="own")
    grid(tmp_path / "runs" / "b", cache, {("rollout", 0.0): [0.5, 0.6, 0.7]})
    grid(tmp_path / "runs" / "c", cache, {("rollout", 0.25): [0.6, 0.8, 0.7]}, alignment="linear")
    report([tmp_path / "runs"], tmp_path / "out")
    found = cells(tmp_path / "out")["alignment linear, attention query", "rollout", "0.25"]
    assert found["difference_n_seeds"] == "3"


def test_one_seed_has_an_interval_over_test_clips_where_its_outputs_were_kept(cache, tmp_path):
    for weight, score in ((0.0, 0.5), (0.25, 0.75)):
        make_run(tmp_path / "kept" / str(weight), cache, score, kd_weight=weight)
        make_run(tmp_path / "none" / str(weight), cache, score, kd_weight=weight, parts=())
    report([tmp_path / "kept"], tmp_path / "out")
    row = cells(tmp_path / "out")["", "rollout", "0.25"]
    mean, low, high = (float(row[f"difference_{name}"]) for name in ("mean", "low", "high"))
    assert row["difference_method"] == "bootstrap" and mean == 0.25
    assert low < 0.25 < high and high - low == pytest.approx(2 * 1.96 * np.sqrt(0.5 / 40), rel=0.35)
    report([tmp_path / "none"], tmp_path / "without")
    row = cells(tmp_path / "without")["", "rollout", "0.25"]
    assert (row["difference_mean"], row["difference_low"], row["difference_method"]) == ("0.25", "", "")


def test_the_published_tables_are_typed_as_they_are_printed():
    """Every accuracy of table 2 is a whole number of 4,800 clips; the method's own remark, and a check on typing."""
    for table in NSCV2.values():
        for scores in table.values():
            assert all(abs(score - 100 * round(48 * score) / 4800) < 0.00501 for score in scores)
    assert NSCV2[8]["lstm_p"][2] == 34.58 and NSCV2[2]["mhatt_rnn"] == (89.75, 91.25, 91.67, 91.75)
    assert FSD50K["mhatt_rnn"] == (0.2647, 0.1694, 0.3182, 0.3317) and FSD50K["lstm_p"][3] == 0.1043


def test_published_numbers_stand_beside_the_same_data_set_only(tmp_path):
    words = tuple(f"word {n}" for n in range(12))
    of_paper = {"labels": words, "keep": "rollout", "n_frames": 4, "dataset": "nscv2", "length_seconds": 4.0}
    whole = make_cache(tmp_path / "whole.zarr", n_test=4890, **of_paper)
    evidence = Evidence("id", whole)
    assert published("nscv2", evidence)[0] == 0.9122
    assert published("nscv2", evidence)[1]["crnn"][0.1] == 0.8944
    other_length = {**whole.metadata, "dataset": {**whole.metadata["dataset"], "recipe": {"length_seconds": 5.0}}}
    assert published("nscv2", Evidence("id", dataclasses.replace(whole, metadata=other_length))) is None
    assert published("mini", evidence) is None and published("fsd50k", evidence) is None
    assert published("nscv2", Evidence("id", None)) is None, "a cache that is not at hand"
    part = make_cache(tmp_path / "part.zarr", n_test=40, **of_paper)
    assert published("nscv2", Evidence("id", part)) is None, "a part of it"

    make_run(tmp_path / "runs" / "a", whole, 0.5, student="bc_resnet_1", parts=())
    config = tmp_path / "runs" / "a" / "config.json"
    for name in ("config.json", "metrics.json"):
        text = (config.parent / name).read_text(encoding="utf-8").replace("bc_resnet_1", "crnn")
        (config.parent / name).write_text(text, encoding="utf-8")
    report([tmp_path / "runs"], tmp_path / "out")
    assert "| CRNN, published | 89.46 |" in re.sub(" +", " ", (tmp_path / "out" / "results.md").read_text("utf-8"))
    assert "published 89.46" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert cells(tmp_path / "out")["", "rollout", "0.25"]["published"] == "0.8946"


def test_runs_are_scored_on_other_caches_as_tkd_evaluate_scores_them(cache, tmp_path):
    there = make_cache(tmp_path / "there.zarr", n_test=33, dataset="there")
    other = make_cache(tmp_path / "other.zarr", labels=("a", "b"))
    several = make_cache(tmp_path / "several.zarr", task="multi_label")
    for weight, validation in ((0.0, 0.3), (0.1, 0.9), (0.5, 0.4)):
        for seed in range(2):
            chosen = {"kd_weight": weight, "seed": seed, "validation": validation}
            make_run(tmp_path / "runs" / f"{weight}-{seed}", cache, 0.5, **chosen)
    arguments = ["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    for also in (there, other, several, cache):
        arguments += ["--test-on", also.location]
    result = CliRunner().invoke(tkd, arguments)
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader((tmp_path / "out" / "results.csv").open(encoding="utf-8")))
    found = {row["kd_weight"]: row for row in rows if row["dataset"] == "there"}
    assert len(found) == 3 and len(rows) == 6  # nothing of other, and home once
    for weight, row in found.items():
        scores = []
        for seed in ("0", "1"):
            run = str(tmp_path / "runs" / f"{float(weight)}-{seed}")
            said = CliRunner().invoke(tkd, ["evaluate", run, "--cache", there.location, "--json"]).stdout
            scores.append(json.loads(said)["value"])
        assert float(row["test"]) == pytest.approx(np.mean(scores))
        assert row["settings"] == "trained on planted, 1 s" and row["chosen_on_validation"] == str(int(weight == "0.1"))
    text = (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    assert "## there, trained on planted, 1 s" in text
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "Not scored on planted: runs trained from that very cache" in page
    assert "On other recordings" in page and "Not scored on planted: " in page and "Give a cache like its own." in page
    assert "trained for accuracy; " in page and "several.zarr is multi_label, scored by mAP." in page


def test_runs_on_clips_of_other_lengths_are_scored_elsewhere_only_where_none_are_of_its_own(tmp_path):
    caches = [make_cache(tmp_path / f"{n}.zarr", dataset=f"d{n}", length_seconds=n) for n in (1.0, 2.0)]
    for cache in caches:
        make_run(tmp_path / "runs" / cache.metadata["dataset"]["name"], cache, 0.5)
    for n, homes in ((2.0, ["d2.0"]), (3.0, ["d1.0", "d2.0"])):
        other = make_cache(tmp_path / f"other-{n}.zarr", n_test=9, dataset="other", length_seconds=n)
        said = report([tmp_path / "runs"], tmp_path / f"out-{n}", others=[other])
        rows = list(csv.DictReader((tmp_path / f"out-{n}" / "runs.csv").open(encoding="utf-8")))
        there = [Path(row["run"]).name for row in rows if row["dataset"] == "other"]
        assert there == homes and any("runs on d1.0, 1 s, of another length" in line for line in said) == (n == 2.0)


def test_published_numbers_do_not_stand_beside_students_trained_elsewhere(tmp_path):
    cache = make_cache(tmp_path / "c.zarr", 4890, dataset="nscv2", labels=tuple("abcdefghijkl"), length_seconds=4.0)
    assert published("nscv2", Evidence("id", cache))
    assert published("nscv2", EvidenceElsewhere("id", cache)) is None


def test_each_map_is_measured_as_planted(cache):
    """Layer 1, head 2 has all its weight in the event; equal weights have the event's share of the frames there."""
    evidence = Evidence("id", cache)
    found = read_maps(cache, evidence.rows, evidence.events)
    shares = found.means["in_event"]
    assert found.n_clips == 20 and shares[1, 2] == pytest.approx(1, abs=1e-3)
    assert found.means["peak_in_event"][1, 2] == 1 and found.means["peak_distance_seconds"][1, 2] == 0
    others = np.delete(shares.flatten(), 5)
    assert others == pytest.approx(np.full(5, 12 / 49), abs=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"student": "crnn", "kd_weight": 0.0, "views": False, "bfloat16": True, "patience": 3, "seed": 7},
        {"augment": ()},
        {"frame_weights": "heads:1.0,1.2", "augment": ("shift", "gain"), "learning_rate": 1e-4, "fraction": 0.1},
        {"logit_kd": 0.3, "temperature": 2.5, "combination": "additive", "weight_decay": 0.0, "ema": 0.999},
    ],
)
def test_the_command_of_a_run_asks_for_its_settings(settings):
    config = TrainConfig(**settings)
    stored = json.loads(json.dumps(dataclasses.asdict(config))) | {"cache": "a b.zarr", "cache_id": "x", "labels": []}
    words = train_command(stored, "runs/ü").removeprefix("tkd train ")
    context = train_cli.make_context("train", shlex.split(words))
    asked = {name: value for name, value in context.params.items() if name in TrainConfig.__dataclass_fields__}
    assert TrainConfig(**asked) == config
    assert str(context.params["cache_path"]) == "a b.zarr" and str(context.params["out"]) == "runs/ü"


def test_places_are_given_as_they_are_typed_where_the_report_is_made(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = {"student": "crnn", "kd_weight": 0.25, "seed": 0, "cache": str(tmp_path / "caches" / "mini.zarr")}
    command = train_command(config, str(tmp_path / "runs" / "a"))
    assert "--cache caches/mini.zarr" in command and "--out runs/a" in command
    assert "--cache https://example.org/a.zarr" in train_command(
        {**config, "cache": "https://example.org/a.zarr"}, "/b"
    )
    make_run(tmp_path / "runs" / "a", cache, 0.5)
    report([tmp_path / "runs"], tmp_path / "out")
    assert str(tmp_path) not in (tmp_path / "out" / "index.html").read_text(encoding="utf-8").replace(
        cache.location, ""
    )
    assert "\nruns/a,planted," in (tmp_path / "out" / "runs.csv").read_text(encoding="utf-8")


def test_settings_that_are_no_more_and_those_not_stated_are_said_behind_the_command():
    stored = json.loads(json.dumps(dataclasses.asdict(TrainConfig()))) | {"magic": 3}
    assert train_command(stored, "r").endswith("--out r  # magic=3")
    del stored["views"], stored["ema"]
    assert train_command(stored, "r").endswith("--out r  # magic=3; not stated: ema, views")


def test_latex_has_as_many_cells_in_each_row_and_no_bare_special_character(cache, tmp_path):
    scores = {("rollout", 0.0): [0.5, 0.6], ("rollout", 0.25): [0.6, 0.7], ("layers:0,1", 0.25): [0.6, 0.6]}
    grid(tmp_path / "runs", cache, scores)
    report([tmp_path / "runs"], tmp_path / "out")
    text = (tmp_path / "out" / "results.tex").read_text(encoding="utf-8")
    tables = [part.splitlines() for part in text.split(r"\begin{tabular}")[1:]]
    cells = [{line.count(" & ") for line in lines if line.endswith(r"\\")} for lines in tables]
    assert cells == [{3}, {1}, {1}] and r"tc\_resnet8" in text  # scores, differences, other targets
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 3 and not re.search(r"(?<!\\)[%#_]", text)


def test_damaged_and_unfinished_runs_are_named_and_the_rest_is_reported(cache, tmp_path):
    make_run(tmp_path / "runs" / "whole", cache, 0.5)
    (make_run(tmp_path / "runs" / "cut", cache, 0.5, seed=1) / "metrics.json").write_text('{"student": "c')
    (make_run(tmp_path / "runs" / "begun", cache, 0.5, seed=2) / "metrics.json").unlink()
    (make_run(tmp_path / "runs" / "odd", cache, 0.5, seed=3) / "test.safetensors").write_bytes(b"{")
    (tmp_path / "runs" / "other").mkdir()
    (tmp_path / "runs" / "other" / "metrics.json").write_text("[1]")
    (make_run(tmp_path / "runs" / "deep", cache, 0.5, seed=4) / "history.json").write_text("[" * 100_000)
    unnamed = make_run(tmp_path / "runs" / "unnamed", cache, 0.5, seed=5) / "metrics.json"
    unnamed.write_text(json.dumps({**json.loads(unnamed.read_text(encoding="utf-8")), "dataset": 5}))
    save_file({}, make_run(tmp_path / "runs" / "blind", cache, 0.5, seed=6) / "distillation.safetensors")
    said = "\n".join(report([tmp_path / "runs"], tmp_path / "out"))
    for name in ("cut", "begun", "other", "deep", "unnamed"):
        assert re.search(rf"Not counted: .*{tmp_path / 'runs' / name}", said), name
    assert cells(tmp_path / "out")["", "rollout", "0.25"]["seeds"] == "3"
    assert re.search(rf"attention.png: .* Not in it: {tmp_path / 'runs' / 'blind'}: damaged run", said)
    for name in ("whole", "odd", "blind"):
        (tmp_path / "runs" / name / "metrics.json").unlink()
    with pytest.raises(TkdError, match="no complete runs"):
        report([tmp_path / "runs"], tmp_path / "out")


def test_a_report_is_the_same_twice_and_overwrites_its_own_alone(cache, tmp_path):
    make_run(tmp_path / "runs" / "a", cache, 0.5)
    report([tmp_path / "runs"], tmp_path / "out")
    first = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    report([tmp_path / "runs"], tmp_path / "out")
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == first
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("<h1>mine</h1>")
    with pytest.raises(TkdError, match="not made by tkd report"):
        report([tmp_path / "runs"], tmp_path / "site")
    assert [file.name for file in (tmp_path / "site").iterdir()] == ["index.html"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "runs.csv").write_text("mine")
    with pytest.raises(TkdError, match=r"runs.csv: there already, and not made by tkd report"):
        report([tmp_path / "runs"], tmp_path / "mine")
    assert [file.read_text() for file in (tmp_path / "mine").iterdir()] == ["mine"]


def test_what_training_leaves_is_what_a_report_reads(cache, tmp_path):
    """Two real trainings, reported by the command."""
    for weight in (0.0, 0.25):
        config = TrainConfig(student="tc_resnet8", kd_weight=weight, epochs=2, batch_size=4, augment=())
        metrics = train(cache, config, tmp_path / "runs" / str(weight))
    shown = CliRunner().invoke(tkd, ["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")])
    assert shown.exit_code == 0, shown.output
    assert f"{metrics['test']:.4f}" in shown.stdout
    assert float(cells(tmp_path / "out")["", "rollout", "0.25"]["test"]) == metrics["test"]
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    for part in ("curves", "attention", "clips", "maps", "errors", "provenance"):
        assert f'<section id="{part}">' in page, part
    assert "earlier version" not in page and str(len(LABELS)) in page


def test_a_difference_that_rounds_to_zero_has_no_sign():
    assert [change("accuracy", value) for value in (-4e-5, 0.0, 4e-5, -6e-5, 0.012)] == [
        "0.00",
        "0.00",
        "0.00",
        f"{MINUS}0.01",
        "+1.20",
    ]
    assert [change("mAP", value) for value in (-4e-5, -6e-5)] == ["0.0000", f"{MINUS}0.0001"]
