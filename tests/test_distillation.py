"""What a student can be taught with: terms, frame weights, schedules; planted answers, and second routes."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import cache_builder
import numpy as np
import pytest
import torch
from planted import POINTING, planted_cache
from safetensors.torch import load_file
from torch import nn

from cache_schema import open_cache
from pipeline.distill import distillation as distillation_module
from pipeline.distill.config import TrainConfig
from pipeline.distill.data import load_splits
from pipeline.distill.distillation import Distillation, scheduled
from pipeline.distill.frame_weights import FrameWeights
from pipeline.distill.losses import temporal_kd_loss
from pipeline.distill.optimisation import build_optimizer
from pipeline.distill.run import read_run
from pipeline.distill.score import score
from pipeline.distill.train import train
from pipeline.errors import TkdError
from students import Student, build_student


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    return {keep: planted_cache(folder / f"{keep}.zarr", keep) for keep in ("rollout", "layers", "heads")}


def lesson(cache, student="tc_resnet", **settings):
    """A fresh student as it would be trained, and a batch of what it would be trained on."""
    torch.manual_seed(0)
    config = TrainConfig(student=student, **settings)
    splits = load_splits(cache, frame_weights=config.frame_weights)
    return Distillation(build_student(student, 4), config, cache), splits["train"].take(range(16))


@pytest.mark.parametrize(
    ("choice", "keep", "expected"),
    [
        ("heads:1.0", "heads", lambda heads: heads[:, 1, 0]),
        ("heads:1.0,0.1", "heads", lambda heads: (heads[:, 1, 0] + heads[:, 0, 1]) / 2),
        ("heads:all", "heads", lambda heads: heads.mean((1, 2))),
        ("layers:1", "heads", lambda heads: heads[:, 1].mean(1)),
        ("layers:1", "layers", lambda heads: heads[:, 1].mean(1)),
        ("layers:all", "layers", lambda heads: heads.mean((1, 2))),
    ],
)
def test_frame_weights_are_the_mean_of_the_chosen_maps(caches, choice, keep, expected):
    heads = torch.from_numpy(caches["heads"].read("head_weights"))[:16]
    distillation, batch = lesson(caches[keep], frame_weights=choice)
    torch.testing.assert_close(distillation.teacher_weights(batch), expected(heads), atol=2e-3, rtol=0.05)


@pytest.mark.parametrize(
    ("choice", "keep", "message"),
    [
        ("heads:1.0", "layers", "keeps no weights by head, which frame weights heads need. Build it with --keep heads"),
        ("layers:0", "rollout", "keeps no weights by layer, which frame weights layers need"),
        ("learned", "rollout", "keeps no weights by layer, which frame weights learned need"),
        ("heads:2.0", "heads", "has no head 2.0; its teacher has 2 layers of 2 heads, counted from 0"),
        ("layers:0,7", "heads", "has no layer 7; its teacher has 2 layers"),
    ],
)
def test_weights_that_a_cache_does_not_hold_are_refused_with_the_way_out(caches, choice, keep, message, tmp_path):
    with pytest.raises(TkdError, match=message):
        train(caches[keep], TrainConfig(frame_weights=choice), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "text", ["", "roll", "layers", "layers:", "layers:1.0", "heads:1", "heads:1.0,", "rollout:all"]
)
def test_a_choice_that_is_none_is_answered_with_those_there_are(text):
    with pytest.raises(TkdError, match="expected rollout, layers:2,3"):
        FrameWeights.parse(text)


def test_a_learned_mixture_finds_the_map_that_points_and_teaches_the_student_nothing_else(caches, tmp_path):
    config = TrainConfig(
        "tc_resnet", 0.5, frame_weights="learned", epochs=10, batch_size=8, learning_rate=3e-3, augment=()
    )
    metrics = train(caches["heads"], config, tmp_path / "run")
    last = load_file(tmp_path / "run" / "checkpoint" / "state.safetensors")
    mixture = (10 * last["training/mixture"]).softmax(0)
    assert mixture[2 * POINTING[0] + POINTING[1]] > 0.6  # of four
    assert metrics["attention_in_event"] > 0.4 > 2 * metrics["uniform_attention_in_event"] - 0.05
    distillation, batch = lesson(caches["heads"], frame_weights="learned", kd_weight=0.0)
    distillation(batch).total.backward()
    plain, _ = lesson(caches["heads"], kd_weight=0.0)
    plain(batch_of(caches["heads"])).total.backward()
    for own, other in zip(distillation.student.parameters(), plain.student.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=0, atol=0)


def batch_of(cache):
    return load_splits(cache)["train"].take(range(16))


def test_the_controls_are_what_they_say(caches):
    cache = caches["rollout"]
    rollout = lesson(cache)[0].teacher_weights(batch_of(cache))
    uniform, batch = lesson(cache, frame_weights="uniform")
    assert (uniform.teacher_weights(batch) == 1).all()
    shuffled, _ = lesson(cache, frame_weights="shuffled")
    torch.testing.assert_close(shuffled.teacher_weights(batch), rollout.roll(1, 0), atol=2e-6, rtol=0)
    assert (shuffled.teacher_weights(load_splits(cache)["train"].take([3])) == 1).all(), "alone: never its own"
    event, _ = lesson(cache, frame_weights="event")
    np.testing.assert_array_equal(event.teacher_weights(batch) > 0, rollout > 0)  # the planted rollout is the event
    unknown = dataclasses.replace(batch, event_start=torch.full((16,), -1), event_stop=torch.full((16,), -1))
    assert (event.teacher_weights(unknown) == 1).all()


def test_a_mixture_of_a_single_map_is_that_map(tmp_path):
    path, _ = cache_builder.build(tmp_path / "one.zarr", cache_builder.sizes(n_layers=1, keep="layers"))
    batch = load_splits(open_cache(path), frame_weights="learned")["train"].take([0, 1])
    np.testing.assert_array_equal(batch.weights, open_cache(path).read("layer_weights")[:2].astype(np.float16))


def test_an_attention_student_can_be_taught_by_its_own_attention(caches, tmp_path):
    config = TrainConfig(student="att_rnn", attention="own", kd_weight=0.5, epochs=1, batch_size=32)
    metrics = train(caches["rollout"], config, tmp_path / "run")
    run = read_run(tmp_path / "run")
    assert not run.training_only
    clips = load_splits(caches["rollout"], names=("test",))["test"]
    assert score(run.on(caches["rollout"]), clips).attention == pytest.approx(metrics["attention"], abs=1e-6)
    with torch.no_grad():
        batch = clips.take(range(4))
        output = run.student(batch.features.float(), batch.lengths)
        torch.testing.assert_close(run.on(caches["rollout"]).log_attention(output).exp(), output.attention)
    with pytest.raises(TkdError, match=r"crnn has no attention of its own\. Train it with --attention query"):
        train(caches["rollout"], TrainConfig(student="crnn", attention="own"), tmp_path / "crnn")
    assert not (tmp_path / "crnn").exists()


def test_the_total_is_the_terms_as_weighted(caches):
    """Convex and additive, with the schedule's factor, restated from the terms."""
    for combination, schedule, progress, factor in (
        ("convex", "constant", 0.3, 1.0),
        ("convex", "decay", 0.25, 0.75),
        ("additive", "rise", 0.25, 0.25),
    ):
        settings = {"kd_weight": 0.2, "logit_kd": 0.4, "combination": combination, "kd_schedule": schedule}
        distillation, batch = lesson(caches["rollout"], **settings)
        losses = distillation.eval()(batch, progress)
        rest = 1 - factor * 0.6 if combination == "convex" else 1
        expected = rest * losses.task + factor * (0.2 * losses.temporal + 0.4 * losses.logit)
        torch.testing.assert_close(losses.total, expected)
    assert [scheduled("decay", p) for p in (0, 1)] == [1, 0] and [scheduled("rise", p) for p in (0, 1)] == [0, 1]


@pytest.mark.parametrize(
    ("name", "attention"), [("tc_resnet", "query"), ("crnn", "query"), ("att_rnn", "own"), ("kwt_1", "own")]
)
def test_every_term_reaches_the_whole_student(caches, name, attention):
    """Its gradients are those of the terms written out: cross-entropy, KL(a_T || a_S), and Hinton's t^2 KL."""
    settings = {"kd_weight": 0.3, "logit_kd": 0.2, "temperature": 2.0, "alignment": "linear", "attention": attention}
    distillation, batch = lesson(caches["rollout"], name, **settings)
    batch = dataclasses.replace(batch, teacher_logits=3 * torch.randn(16, 4), labels=torch.randint(4, (16,)))
    student, class_weights = distillation.student, torch.tensor([0.5, 1.0, 1.5, 2.0])
    distillation.class_weights = class_weights
    if attention == "query":
        nn.init.normal_(distillation.query, std=0.1)  # at zero it hides the frames from the KL

    def terms():
        output, rows = student(batch.features.float(), batch.lengths), torch.arange(16)
        looks = output.attention if attention == "own" else (output.frames @ distillation.query).softmax(1)
        (source, target), n = (distillation.source, distillation.target), looks.shape[1]
        times = [grid.offset + grid.hop_length * np.arange(k) for grid, k in ((target, n), (source, 99))]
        taught = torch.tensor(np.stack([np.interp(*times, row) for row in batch.weights.double().numpy()])).float()
        taught /= taught.sum(1, keepdim=True)
        task = -(class_weights[batch.labels] * output.logits.log_softmax(1)[rows, batch.labels]).mean()
        temporal = (taught * (taught.clamp_min(1e-30) / looks).log()).sum(1).mean()
        soft, own = ((logits / 2).softmax(1) for logits in (batch.teacher_logits, output.logits))
        return 0.5 * task, 0.3 * temporal, 0.2 * 4 * (soft * (soft / own).log()).sum(1).mean()

    def gradients(loss):
        torch.manual_seed(1)  # of dropout
        found = torch.autograd.grad(loss(), list(student.parameters()), materialize_grads=True)
        return torch.cat([gradient.flatten() for gradient in found])

    expected = [gradients(lambda n=n: terms()[n]) for n in range(3)]
    assert all(part.norm() > 0.02 * sum(expected).norm() for part in expected), "each can be missed"
    torch.testing.assert_close(gradients(lambda: distillation(batch).total), sum(expected), atol=1e-5, rtol=1e-3)
    first = next(student.parameters()).numel()
    assert (expected[1][:first] != 0).any(), "the KL reaches the first layer"


def test_the_weights_of_the_terms_follow_the_training(caches, tmp_path, monkeypatch):
    """The schedule is asked at each step for how much of the training is over."""
    asked = []

    def watched(schedule, progress):
        asked.append((schedule, progress))
        return scheduled(schedule, progress)

    monkeypatch.setattr(distillation_module, "scheduled", watched)
    config = TrainConfig(kd_schedule="rise", epochs=2, batch_size=32, augment=())
    train(caches["rollout"], config, tmp_path / "run", student=Small)
    assert list(dict.fromkeys(asked)) == [("rise", step / 8) for step in range(8)]


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_logits_alone_teach_what_the_labels_would(tmp_path, task):
    """The planted teacher's logits are right: a student that hardly hears the labels learns from them."""
    cache = planted_cache(tmp_path / "c.zarr", task=task)
    config = TrainConfig(student="tc_resnet", kd_weight=0, logit_kd=0.999, epochs=6, batch_size=8, augment=())
    assert train(cache, config, tmp_path / "run")["test"] > 0.8


def test_the_average_that_is_scored_is_that_of_the_steps(caches, tmp_path):
    """EMA restated: weights and BatchNorm's statistics after each step, from the same steps."""
    cache, decay = caches["rollout"], 0.6
    config = TrainConfig(student="tc_resnet", kd_weight=0, epochs=1, batch_size=64, ema=decay, augment=())
    train(cache, config, tmp_path / "run")
    kept = []
    for n_clips in (64, 128):  # after the first step, and after both: the learning rate warms up over an epoch of two
        steps = dataclasses.replace(config, ema=0.0)
        kept.append(steps_of(cache, steps, n_clips // 64))
    decay = min(decay, 2 / 11)  # after one step
    expected = {name: decay * kept[0][name] + (1 - decay) * kept[1][name] for name in kept[0]}
    student = read_run(tmp_path / "run").student.state_dict()
    for name, value in student.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[name])


def steps_of(cache, config, n):
    """The student's state after the first `n` steps of the first epoch, by a plain loop."""
    torch.manual_seed(config.seed)
    student = build_student(config.student, 4)
    optimizer = torch.optim.AdamW(student.parameters(), weight_decay=config.weight_decay, fused=True)
    train_split = load_splits(cache)["train"]
    for step, batch in zip(range(n), train_split.shuffled(config.batch_size, [0]), strict=False):
        optimizer.param_groups[0]["lr"] = config.learning_rate * (step + 1) / 2
        optimizer.zero_grad()
        nn.functional.cross_entropy(student(batch.features.float(), batch.lengths).logits, batch.labels).backward()
        nn.utils.clip_grad_norm_(student.parameters(), config.max_grad_norm)
        optimizer.step()
    return student.state_dict()


@pytest.mark.parametrize("change", [{"student": "ds_tc_resnet"}, {"student": "tc_resnet", "ema": 0.999}])
def test_what_is_scored_after_a_few_steps_is_what_was_learned(caches, tmp_path, change):
    """Statistics and averages that are mostly those of the start would leave these at chance, 0.25."""
    config = TrainConfig(epochs=10, batch_size=16, augment=(), **change)
    assert train(caches["rollout"], config, tmp_path / "run")["test"] > 0.8


def test_training_stops_when_the_score_does(caches, tmp_path):
    config = TrainConfig(student="tc_resnet", epochs=9, patience=2, learning_rate=1e-9)
    metrics = train(caches["rollout"], config, tmp_path / "run")
    assert metrics["epochs"] == metrics["best_epoch"] + 2 < 9
    assert len(json.loads((tmp_path / "run" / "history.json").read_text())) == metrics["epochs"]


def test_a_fraction_of_the_clips_is_nested_and_drawn_by_the_seed(caches):
    def taken(**settings):
        batches = load_splits(caches["rollout"], **settings)["train"].shuffled(16, [5])
        return {name for batch in batches for name in batch.clip_id}

    tenth, third, other = taken(fraction=0.1), taken(fraction=0.3), taken(fraction=0.3, seed=1)
    assert len(tenth) == 13 and len(third) == 38 and tenth < third != other


def test_sgd_trains(caches, tmp_path):
    config = TrainConfig("tc_resnet", optimizer="sgd", learning_rate=0.1, epochs=4, batch_size=8, augment=())
    assert train(caches["rollout"], config, tmp_path / "run")["test"] > 0.6
    group = build_optimizer(nn.Linear(1, 1), config).param_groups[0]
    assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, True, config.weight_decay)


def test_rare_classes_are_weighted(caches, tmp_path):
    """The task loss of a first step, restated with weights in inverse proportion to the classes' clips."""
    config = TrainConfig(kd_weight=0.0, class_weights="balanced", epochs=1, batch_size=128, augment=())
    train(caches["rollout"], config, tmp_path / "run", student=Small)
    torch.manual_seed(config.seed)
    student, batch = Small(4, 40), load_splits(caches["rollout"])["train"].take(range(128))
    weights = 128 / (4 * batch.labels.bincount(minlength=4))
    with torch.no_grad():
        losses = nn.functional.cross_entropy(student(batch.features.float()).logits, batch.labels, reduction="none")
    (record,) = json.loads((tmp_path / "run" / "history.json").read_text())
    assert record["task_loss"] == pytest.approx(float((weights[batch.labels] * losses).mean()), rel=1e-5)
    assert abs(record["task_loss"] - float(losses.mean())) > 1e-4 * record["task_loss"], "else they would not show"


class Small(Student):
    """The network of docs/students.md."""

    name = "small"
    n_mfcc = 0
    n_channels = 16

    def __init__(self, n_classes, n_mels):
        super().__init__(n_mels)
        self.conv = nn.Conv1d(n_mels, self.n_channels, 3, padding=1)
        self.classifier = nn.Linear(self.n_channels, n_classes)

    def encode(self, mfcc, lengths):
        return torch.relu(self.conv(mfcc)).transpose(1, 2)

    def read_out(self, frames, lengths):
        n_frames = frames.shape[1] if lengths is None else lengths[:, None]
        return self.classifier(frames.sum(1) / n_frames), None


def test_a_class_of_ones_own_is_trained_resumed_and_read_back(caches, tmp_path):
    config, cache = TrainConfig(epochs=2, batch_size=16), caches["rollout"]
    metrics = train(cache, config, tmp_path / "run", student=Small)
    assert metrics["student"] == "small"
    assert train(cache, config, tmp_path / "run", resume=True, student=Small) == metrics
    run = read_run(tmp_path / "run", Small)
    assert score(run.on(cache), load_splits(cache)["test"]).value == metrics["test"]
    with pytest.raises(TkdError, match=r"its student small is a class of its own. Give it: read_run\(path, student="):
        read_run(tmp_path / "run")


def test_clips_that_augmentation_may_leave_too_short_and_unknown_students_are_refused_beforehand(caches, tmp_path):
    class Long(Small):
        name, min_frames = "long", 80

    with pytest.raises(
        TkdError, match="long needs 80 feature frames, and crop and speed may leave fewer of a clip of 99"
    ):
        train(caches["rollout"], TrainConfig(epochs=1), tmp_path / "run", student=Long)
    with pytest.raises(TkdError, match=r"no such student: crnnn\. Did you mean crnn\?"):
        train(caches["rollout"], TrainConfig("crnnn", epochs=1), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_two_processes_train_the_student_of_one(caches, tmp_path):
    """torchrun on CPUs: half of each batch each, the same updates; the first alone decides, writes and reports."""
    program = tmp_path / "two.py"
    program.write_text(f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_distillation import Small
from cache_schema import open_cache
from pipeline.distill.config import TrainConfig
from pipeline.distill.train import train
from accelerate import PartialState
from pipeline.errors import TkdError
from pipeline.processes import as_first_process, last_of_torchrun
with last_of_torchrun():
    config = TrainConfig(epochs=2, batch_size=24, augment=("gain",))
    cache = open_cache({str(caches["rollout"].path)!r})
    train(cache, config, Path({str(tmp_path / "two")!r}), student=Small)
    try:
        train(cache, TrainConfig(batch_size=1), Path({str(tmp_path / "none")!r}), student=Small)
    except TkdError as error:
        print(error)
    first = PartialState().is_main_process
    assert as_first_process(PartialState(), first) and not as_first_process(PartialState(), not first)
""")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(program)]
    done = subprocess.run(torchrun, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("epoch 1 of 2") == 1
    assert (
        done.stdout.count("batches of 1, expected a clip for each of the 2 processes") == 2
    )  # else none is trained on
    config = TrainConfig(epochs=2, batch_size=24, augment=("gain",))
    train(caches["rollout"], config, tmp_path / "one", student=Small)
    one, two = (read_run(tmp_path / name, Small) for name in ("one", "two"))
    for name, value in one.student.state_dict().items():
        torch.testing.assert_close(two.student.state_dict()[name], value, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(two.training_only, one.training_only, atol=1e-5, rtol=1e-4)
    assert [record["task_loss"] for record in two.history] == pytest.approx([r["task_loss"] for r in one.history])


def test_a_run_keeps_its_history_its_test_logits_and_pictures_of_attention(caches, tmp_path):
    cache = caches["rollout"]
    metrics = train(cache, TrainConfig(student="tc_resnet", epochs=2, batch_size=32), tmp_path / "run")
    run = read_run(tmp_path / "run")
    assert [record["epoch"] for record in run.history] == [1, 2]
    assert max(record["validation"] for record in run.history) == metrics["validation"]
    assert set(metrics["attention"]) == {
        "in_event",
        "peak_in_event",
        "peak_distance_seconds",
        "entropy",
        "kl_to_teacher",
    }
    assert metrics["teacher"]["attention"]["peak_in_event"] == 1
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator(
        str(tmp_path / "run"), {"images": 0, "scalars": 0}
    )
    events.Reload()
    assert len(events.Images("attention")) == 2 and len(events.Scalars("validation")) == 2
    image = events.Images("attention")[0]
    assert (image.width, image.height) == (50 * 3, 8 * (2 * 8 + 4))


def test_kl_to_the_teacher_is_to_the_rollout_whatever_was_taught(caches, tmp_path):
    cache = caches["rollout"]
    metrics = train(cache, TrainConfig(student="tc_resnet", frame_weights="uniform", epochs=1), tmp_path / "run")
    run, test = read_run(tmp_path / "run"), load_splits(cache)["test"]
    distillation, batch = run.on(cache), test.take(range(len(test)))
    with torch.no_grad():
        output = run.student(batch.features.float(), batch.lengths)
        teacher = distillation.on_student_frames(batch.weights, batch, output)
        expected = temporal_kd_loss(distillation.log_attention(output), teacher).mean()
    assert metrics["attention"]["kl_to_teacher"] == pytest.approx(float(expected), rel=1e-4)
