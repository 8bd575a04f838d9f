"""Stage two on a tiny cache: what a run leaves behind, what KD may and may not change, and interruption."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import cache_builder
import pytest
import torch
from planted import planted_cache
from safetensors.torch import load_file, save
from torch import nn
from waiting import until

from cache_schema import open_cache
from pipeline.distill.config import TrainConfig
from pipeline.distill.data import load_splits
from pipeline.distill.distillation import Distillation
from pipeline.distill.optimisation import learning_rate
from pipeline.distill.run import read_run
from pipeline.distill.score import score
from pipeline.distill.train import _seed_dropout, train
from pipeline.errors import TkdError
from students import STUDENTS, build_student


@pytest.fixture(scope="module")
def cache(tiny_cache):
    return open_cache(tiny_cache)


@pytest.fixture(scope="module")
def runs(cache, tmp_path_factory):
    """Without and with KD, from the same seed."""
    folder = tmp_path_factory.mktemp("runs")
    for weight in (0.0, 0.25):
        train(
            cache,
            TrainConfig(student="tc_resnet", kd_weight=weight, epochs=2, batch_size=16, augment=()),
            folder / f"kd{weight}",
        )
    return folder


def equal_weights(a, b):
    first, second = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    assert first.keys() == second.keys()
    return all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", STUDENTS)
def test_every_student_trains_from_the_cache_alone(cache, name, tmp_path):
    metrics = train(cache, TrainConfig(student=name, epochs=1, batch_size=24), tmp_path / name)
    assert metrics["student"] == name
    assert metrics["cache_id"] == cache.metadata["cache_id"]
    saved = load_file(tmp_path / name / "model.safetensors")
    assert saved.keys() == build_student(name, 12).state_dict().keys()


def test_kd_changes_weights_but_neither_keys_nor_shapes(runs):
    plain, distilled = (load_file(runs / run / "model.safetensors") for run in ("kd0.0", "kd0.25"))
    assert {key: value.shape for key, value in plain.items()} == {key: value.shape for key, value in distilled.items()}
    assert any(not torch.equal(plain[key], distilled[key]) for key in plain)


def test_without_kd_a_student_trains_as_if_there_were_no_query(cache, runs, tmp_path):
    """kd_weight 0 gives, bit for bit, the weights of a plain loop without teacher, query or KD."""
    config = TrainConfig(student="tc_resnet", kd_weight=0.0, epochs=2, batch_size=16, augment=())
    train_split, validation = (load_splits(cache)[split] for split in ("train", "validation"))
    clips = train_split.take(range(len(train_split)))
    torch.manual_seed(config.seed)
    student = build_student("tc_resnet", 12)
    optimizer = torch.optim.AdamW(
        student.parameters(), config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    n_steps, best, kept = 3, -1, None
    for epoch in range(config.epochs):
        order = torch.randperm(len(clips), generator=torch.Generator().manual_seed(epoch))
        for step, rows in enumerate(order.split(config.batch_size)):
            logits = student(clips.features[rows].float(), clips.lengths[rows]).logits
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits, clips.labels[rows]).backward()
            nn.utils.clip_grad_norm_(student.parameters(), config.max_grad_norm)
            optimizer.param_groups[0]["lr"] = learning_rate(config, epoch * n_steps + step, n_steps)
            optimizer.step()
        accuracy = score(Distillation(student, config, cache), validation).value
        if accuracy > best:
            best, kept = accuracy, {key: value.clone() for key, value in student.state_dict().items()}
    saved = load_file(runs / "kd0.0" / "model.safetensors")
    assert all(torch.equal(saved[key], kept[key]) for key in kept)


def test_the_learning_rate_warms_up_for_an_epoch_and_falls_to_a_hundredth():
    config = TrainConfig(epochs=3, learning_rate=2.0)
    rates = [learning_rate(config, step, 10) for step in range(31)]
    assert rates[:10] == pytest.approx([0.2 * n for n in range(1, 11)])
    assert rates[10] == 2 and rates[20] == pytest.approx(2 * (0.01 + 0.99 / 2)) and rates[30] == pytest.approx(0.02)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_metrics_say_what_a_reader_needs(runs, cache):
    metrics = json.loads((runs / "kd0.25" / "metrics.json").read_text())
    expected = {"student", "dataset", "cache_id", "kd_weight", "logit_kd", "seed", "metric", "validation", "test"}
    assert expected | {"n_params", "epochs", "seconds", "attention_in_event"} <= metrics.keys()
    assert metrics["n_params"] == 366_894
    run = read_run(runs / "kd0.25")
    again = score(run.on(cache), load_splits(cache)["test"])
    assert again.value == metrics["test"]
    assert again.attention == pytest.approx(metrics["attention"])
    assert metrics["attention_in_event"] == metrics["attention"]["in_event"]


def test_a_run_in_bfloat16_is_scored_in_float32(cache, tmp_path):
    """The metrics are those of the saved student, also when both precisions are used in one process."""
    for bfloat16 in (True, False):
        out = tmp_path / f"{bfloat16}"
        metrics = train(cache, TrainConfig(student="crnn", epochs=1, bfloat16=bfloat16), out)
        run = read_run(out)
        again = score(run.on(cache), load_splits(cache)["test"])
        assert again.value == metrics["test"]
        assert again.attention == pytest.approx(metrics["attention"], abs=1e-7)


def test_the_same_seed_gives_the_same_weights_and_another_does_not(cache, runs, tmp_path):
    config = {"student": "tc_resnet", "epochs": 2, "batch_size": 16, "augment": ()}
    train(cache, TrainConfig(**config), tmp_path / "same")
    train(cache, TrainConfig(**config, seed=1), tmp_path / "other")
    assert equal_weights(runs / "kd0.25", tmp_path / "same")
    assert not equal_weights(runs / "kd0.25", tmp_path / "other")


def test_a_killed_training_resumes_to_the_same_bits(tiny_cache, tmp_path):
    """SIGKILL at several moments; resumed, the weights equal those of a training that was never stopped.

    With an average of the weights, which is scored in their place, and has to go on, too.
    """
    command = [sys.executable, "-m", "pipeline.cli.main", "train", "--cache", str(tiny_cache), "--student", "tc_resnet"]
    command += ["--epochs", "4", "--batch-size", "16", "--ema", "0.9", "--resume", "--out"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    interrupted = 0
    for delay in (0.0, 0.05, 0.4):
        out = tmp_path / f"killed{delay}"
        process = subprocess.Popen([*command, str(out)], stderr=subprocess.DEVNULL)
        try:
            until((out / "checkpoint" / "state.safetensors").exists, process)
            time.sleep(delay)
        finally:
            process.kill()
            process.wait()
        if not (out / "metrics.json").exists():
            interrupted += 1
            with pytest.raises(TkdError, match="not complete"):
                read_run(out)
        resumed = subprocess.run([*command, str(out)], check=True, capture_output=True, text=True)
        assert "epoch 1 of 4" not in resumed.stderr
        assert equal_weights(tmp_path / "whole", out)
    assert interrupted


def test_the_best_of_an_epoch_that_was_killed_before_it_was_whole_is_not_taken(cache, runs, tmp_path):
    shutil.copytree(runs / "kd0.25", tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()
    (best,) = (tmp_path / "run" / "checkpoint").glob("best-*")
    best.with_name("best-9.safetensors").write_bytes(b"of another epoch")
    config = TrainConfig(student="tc_resnet", epochs=2, batch_size=16, augment=())
    assert f"best-{train(cache, config, tmp_path / 'run', resume=True)['best_epoch']}.safetensors" == best.name
    assert equal_weights(runs / "kd0.25", tmp_path / "run")


def test_each_process_has_dropout_of_its_own_and_a_gpu_that_resumes_other_than_at_the_start():
    def drawn(index, epoch, device="cpu"):
        torch.manual_seed(3)
        _seed_dropout(3, SimpleNamespace(process_index=index, device=torch.device(device)), epoch)
        return torch.rand(()).item()

    assert drawn(0, 0) == drawn(0, 2) == drawn(0, 0, "cuda")  # the first continues what the checkpoint restored
    assert len({drawn(index, epoch) for index, epoch in ((0, 0), (1, 0), (2, 0), (1, 1))}) == 4


def test_float32_is_not_tf32(cache, runs, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    score(read_run(runs / "kd0.25").on(cache), load_splits(cache)["validation"])
    assert torch.backends.cudnn.allow_tf32 is False


def test_other_settings_do_not_continue_a_run(cache, runs):
    with pytest.raises(TkdError, match="epochs was 2, is 3"):
        train(
            cache, TrainConfig(student="tc_resnet", epochs=3, batch_size=16, augment=()), runs / "kd0.25", resume=True
        )


def test_a_run_is_not_overwritten_unasked(cache, runs, tmp_path):
    config = TrainConfig(student="tc_resnet", epochs=2, batch_size=16, augment=())
    with pytest.raises(TkdError, match=r"a complete run\. Start over with --force"):
        train(cache, config, runs / "kd0.25")
    (tmp_path / "config.json").write_text('{"model_type": "wav2vec2"}')
    (tmp_path / "thesis.tex").write_text("mine")
    for force in (False, True):
        with pytest.raises(TkdError, match="exists and is not a run"):
            train(cache, config, tmp_path, force=force)
    assert (tmp_path / "thesis.tex").exists()


def test_a_loss_that_is_not_finite_names_the_step_and_the_clips(cache, tmp_path):
    with pytest.raises(TkdError, match=r"the loss is (nan|inf) in epoch 1, step 2, on clips train/"):
        train(cache, TrainConfig(student="tc_resnet", learning_rate=1e38, batch_size=16), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_weights_that_the_last_step_ruined_are_no_run(cache, tmp_path):
    """No loss tells: there is none after the last step; argmax of NaN is class 0, which scores its share of clips."""
    config = TrainConfig(student="tc_resnet8", learning_rate=1e38, batch_size=64, epochs=1, augment=())
    with pytest.raises(TkdError, match=r"logits are not finite after epoch 1\. Lower --learning-rate"):
        train(cache, config, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("config.json", b"[]", "damaged run"),
        ("metrics.json", b"null", "metrics.json or history.json holds something else"),
        ("history.json", b"{}", "metrics.json or history.json holds something else"),
        ("history.json", b"[" * 100_000, "damaged run"),
        ("distillation.safetensors", save({}), "no query of 72 channels in distillation.safetensors"),
        ("distillation.safetensors", save({"query": torch.zeros(3)}), "no query of 72 channels"),
    ],
)
def test_a_damaged_run_says_so_and_how_to_make_it_again(cache, runs, tmp_path, file, content, reason):
    shutil.copytree(runs / "kd0.25", tmp_path / "run")
    (tmp_path / "run" / file).write_bytes(content)
    with pytest.raises(TkdError, match=f"{reason}.*Train it again with --force"):
        read_run(tmp_path / "run").on(cache)


@pytest.mark.parametrize("name", ["state", "best"])
@pytest.mark.parametrize("content", [b"", save({"x": torch.zeros(2)}, {"progression": "{}"}), None])
def test_a_damaged_checkpoint_says_so_and_how_to_start_over(cache, runs, tmp_path, name, content):
    shutil.copytree(runs / "kd0.25", tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()
    (file,) = (tmp_path / "run" / "checkpoint").glob(f"{name}*.safetensors")  # of the best epoch and no other
    file.unlink()
    config = TrainConfig(student="tc_resnet", epochs=2, batch_size=16, augment=())
    if content is not None:
        file.write_bytes(content)
    elif name == "state":
        assert train(cache, config, tmp_path / "run", resume=True)["epochs"] == 2  # from the start
        return
    with pytest.raises(TkdError, match=f"{file.name}: damaged checkpoint .*Start over with --force"):
        train(cache, config, tmp_path / "run", resume=True)


def test_the_folder_one_is_in_and_a_link_can_be_started_over(cache, tmp_path, monkeypatch):
    config = TrainConfig(student="tc_resnet8", epochs=1, augment=())
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    monkeypatch.chdir(tmp_path / "run")
    train(cache, config, Path("."), force=True)
    train(cache, config, tmp_path / "link", force=True)
    assert read_run(tmp_path / "run").metrics["epochs"] == 1 and (tmp_path / "link").is_symlink()
    with pytest.raises(TkdError, match=r"/: has no name\. Give another --out"):
        train(cache, config, Path("/"))


@pytest.mark.parametrize("field", [{"kd_weight": 1.0}, {"kd_weight": -0.1}, {"kd_weight": float("nan")}, {"epochs": 0}])
def test_senseless_settings_are_refused(field):
    with pytest.raises(TkdError, match=next(iter(field))):
        TrainConfig(**field)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return planted_cache(tmp_path_factory.mktemp("planted") / "planted.zarr")


@pytest.mark.parametrize("name", ["tc_resnet", "crnn"])
def test_a_distilled_student_learns_to_look_where_the_teacher_looks(planted, name, tmp_path):
    config = TrainConfig(student=name, kd_weight=0.5, epochs=8, batch_size=8, learning_rate=3e-3, augment=())
    metrics = train(planted, config, tmp_path / name)
    assert metrics["teacher"]["attention_in_event"] == pytest.approx(1, abs=1e-3)
    assert metrics["uniform_attention_in_event"] == pytest.approx(20 / 99, abs=0.02)
    assert metrics["attention_in_event"] > 0.7


@pytest.mark.parametrize(
    ("student", "reason"),
    [
        ("tc_resnet", "its features do not suit tc_resnet: n_mels is 20, expected at least n_mfcc = 40"),
        ("bc_resnet_1", "its features do not suit bc_resnet_1: bc_resnet_1: n_mels is 20, expected 40 or a multiple"),
        ("lstm_p", r"does not say when its feature frames are \(tkd_cache.features.frame_offset"),
    ],
)
def test_a_student_that_the_features_do_not_suit_is_refused_before_anything_is_written(tmp_path, student, reason):
    cache_builder.build(tmp_path / "c.zarr", cache_builder.sizes(n_features=20))
    with pytest.raises(TkdError, match=f"c.zarr: {reason}"):
        train(open_cache(tmp_path / "c.zarr"), TrainConfig(student=student), tmp_path / "run")
    assert not (tmp_path / "run").exists()
