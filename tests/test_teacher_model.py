"""What a teacher is: its frames, its readouts, its folder, and what is refused as one."""

import copy
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

from pipeline.data.clip import Clip
from pipeline.data.manifest import DatasetInfo, Manifest
from pipeline.errors import TkdError
from pipeline.teacher.base import load_base
from pipeline.teacher.checkpoint import FAMILY
from pipeline.teacher.clips import collate
from pipeline.teacher.model import (
    BUNDLED,
    Teacher,
    TeacherInfo,
    load_teacher,
    normalise,
    require_labels,
    require_lengths,
    save_teacher,
)

SMALL = {
    "conv_dim": [16, 16, 16],
    "conv_kernel": [80, 8, 2],
    "conv_stride": [40, 4, 2],
    "conv_bias": True,
    "num_feat_extract_layers": 3,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 32,
}
LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
BASE_CONVOLUTIONS = {
    "conv_dim": [8] * 7,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "num_feat_extract_layers": 7,
}


def tiny_config(model_type="wav2vec2", **changes):
    norm = {} if model_type == "data2vec-audio" else LAYER_NORM
    return AutoConfig.for_model(model_type, **{**SMALL, **norm, **changes})


def tiny_teacher(model_type="wav2vec2", readout="first_token", n_classes=12, **changes) -> Teacher:
    """A random teacher in eval mode whose attention is far from uniform."""
    torch.manual_seed(1)
    teacher = Teacher(AutoModel.from_config(tiny_config(model_type, **changes)), n_classes, readout)
    with torch.no_grad():
        for layer in teacher.encoder.encoder.layers:
            for part in ("q_proj", "k_proj"):
                getattr(layer.attention, part).weight.normal_(0, 0.4)
    return teacher.eval()


def tiny_folder(folder, labels, teacher=None, **changes):
    """A tiny teacher's folder."""
    folder.mkdir()
    teacher = teacher or tiny_teacher(n_classes=len(labels), **changes)
    info = TeacherInfo(
        "tiny", tuple(labels), "single_label", teacher.readout, "none", "0" * 64, "accuracy", 0.5, 0.5, {"epochs": 1}
    )
    save_teacher(teacher, info, folder)
    return folder


def waveforms(*lengths, seed=0):
    """Teacher batch of noise clips, with tones so that frames differ."""
    rng = np.random.default_rng(seed)
    clips = [
        rng.normal(0, 0.1, n).astype(np.float32)
        + np.sin(np.linspace(0, n * (0.1 + 0.1 * i), n, dtype=np.float32) ** 1.1)
        for i, n in enumerate(lengths)
    ]
    batch = collate([{"waveform": clip} for clip in clips])
    return batch["input_values"], batch.get("attention_mask")


def test_frame_numbers_of_the_published_base_model():
    """wav2vec 2.0: one frame per 320 samples, with a receptive field of 400 (arXiv 2006.11477, section 4.2)."""
    teacher = tiny_teacher(**BASE_CONVOLUTIONS)
    assert (teacher.hop_length, teacher.min_samples, teacher.frame_offset) == (320, 400, 199.5)
    assert [teacher.n_frames(n) for n in (399, 400, 719, 720, 16000, 64000)] == [0, 1, 1, 2, 49, 199]


@pytest.mark.parametrize("changes", [{}, BASE_CONVOLUTIONS], ids=["small", "base"])
def test_frame_numbers_are_those_of_transformers(changes):
    teacher = tiny_teacher(**changes)
    lengths = torch.arange(teacher.min_samples, 3000, 7)
    expected = teacher.encoder._get_feat_extract_output_lengths(lengths)
    assert [teacher.n_frames(int(n)) for n in lengths] == expected.tolist()
    for n in (teacher.min_samples, 1999, 2000):
        assert teacher.encoder(torch.randn(1, n)).last_hidden_state.shape[1] == teacher.n_frames(n)


@pytest.mark.parametrize("changes", [{}, BASE_CONVOLUTIONS], ids=["small", "base"])
def test_a_frame_hears_the_samples_around_its_centre_and_no_others(changes):
    teacher = tiny_teacher(**changes)
    silence = torch.randn(1, 4000)
    before = teacher.encoder.feature_extractor(silence)
    for sample in (0, 1000, 1777, 2400):
        touched = silence.clone()
        touched[0, sample] += 100
        change = (teacher.encoder.feature_extractor(touched) - before).abs().amax(dim=(0, 1))
        centres = teacher.frame_offset + teacher.hop_length * np.arange(len(change))
        hears = np.abs(sample - centres) <= (teacher.min_samples - 1) / 2
        assert set(np.flatnonzero(change.detach().numpy() > 0)) <= set(np.flatnonzero(hears))
        assert change.argmax() in np.flatnonzero(hears)


def test_normalise_is_what_transformers_feeds_its_models():
    waveform = np.random.default_rng(0).normal(0.3, 0.2, 5000).astype(np.float32)
    extractor = AutoFeatureExtractor.from_pretrained(BUNDLED)
    expected = extractor(waveform, sampling_rate=16000)["input_values"][0]
    assert normalise(waveform).dtype == np.float32
    np.testing.assert_allclose(normalise(waveform), expected, atol=1e-6)
    assert np.isfinite(normalise(np.zeros(800, np.float32))).all()


def test_the_mean_readout_is_the_mean_over_valid_frames():
    teacher = tiny_teacher(readout="mean")
    inputs, mask = waveforms(8000, 3000)
    hidden = teacher.encoder(inputs, attention_mask=mask).last_hidden_state.detach().double()
    means = torch.stack([hidden[0].mean(0), hidden[1, : teacher.n_frames(3000)].mean(0)])
    expected = teacher.classifier.double()(means)
    teacher.classifier.float()
    torch.testing.assert_close(teacher(inputs, mask)["logits"].double(), expected, atol=1e-5, rtol=0)


def test_the_first_token_readout_is_the_first_frame():
    teacher = tiny_teacher()
    inputs, mask = waveforms(8000, 3000)
    hidden = teacher.encoder(inputs, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(teacher(inputs, mask)["logits"], teacher.classifier(hidden[:, 0]))


@pytest.mark.parametrize("readout", ["first_token", "mean"])
def test_a_padded_batch_gives_the_logits_of_one_clip_at_a_time(readout):
    teacher = tiny_teacher(readout=readout)
    lengths = (16000, 9000, 520)
    together = teacher(*waveforms(*lengths))["logits"]
    inputs, _ = waveforms(*lengths)
    alone = torch.cat([teacher(inputs[i : i + 1, :n])["logits"] for i, n in enumerate(lengths)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("model_type", FAMILY)
def test_a_folder_gives_back_the_teacher_and_opens_in_transformers(tmp_path, model_type):
    teacher = tiny_teacher(model_type, n_classes=3)
    folder = tiny_folder(tmp_path / "t", "abc", teacher)
    assert sorted(file.name for file in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tkd_teacher.json",
    ]
    inputs, _ = waveforms(4000)
    loaded, info, digest = load_teacher(str(folder))
    assert torch.equal(loaded(inputs)["logits"], teacher(inputs)["logits"])
    assert info.labels == ("a", "b", "c") and not loaded.training
    assert digest == load_teacher(str(folder))[2] and len(digest) == 64
    encoder = AutoModel.from_pretrained(folder).eval()
    assert torch.equal(encoder(inputs).last_hidden_state, teacher.encoder(inputs).last_hidden_state)
    assert AutoFeatureExtractor.from_pretrained(folder).sampling_rate == 16000
    base = load_base(str(folder), 5, "mean").eval()
    assert torch.equal(base.encoder(inputs).last_hidden_state, teacher.encoder(inputs).last_hidden_state)
    assert base.classifier.out_features == 5


def test_float16_weights_are_half_the_size_and_run_in_float32(tmp_path):
    folder = tiny_folder(tmp_path / "whole", "abc")
    teacher, info, _ = load_teacher(str(folder))
    (tmp_path / "half").mkdir()
    save_teacher(teacher, info, tmp_path / "half", torch.float16)
    assert {tensor.dtype for tensor in load_file(tmp_path / "half" / "model.safetensors").values()} == {torch.float16}
    half, _, _ = load_teacher(str(tmp_path / "half"))
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float32}
    inputs, _ = waveforms(8000)
    torch.testing.assert_close(half(inputs)["logits"], teacher(inputs)["logits"], atol=2e-2, rtol=0)


@pytest.mark.parametrize("source", ["base", "config", "teacher"])
def test_a_checkpoint_whose_config_says_float16_runs_in_float32(tmp_path, source):
    folder = tiny_folder(tmp_path / "t", "abc")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float16"}))
    if source == "teacher":
        teacher = load_teacher(str(folder))[0]
    else:
        teacher = load_base(str(folder if source == "base" else folder / "config.json"), 3, "mean")
    assert {parameter.dtype for parameter in teacher.parameters()} == {torch.float32}
    assert torch.isfinite(teacher(waveforms(4000)[0])["logits"]).all()


def test_a_teachers_files_are_as_readable_as_each_other(tmp_path):
    folder = tiny_folder(tmp_path / "t", "abc")
    assert len({file.stat().st_mode for file in folder.iterdir()}) == 1


def test_loading_a_pretrained_base_says_nothing(tmp_path):
    """From a folder, and by its name from the hub's cache; what was fetched of the second is pickled.

    In a process of its own: transformers logs to the standard error it found when it was imported.
    """
    folder = tiny_folder(tmp_path / "t", "abc")
    for name in ("models--team--new", "models--team--old"):
        (tmp_path / name / "refs").mkdir(parents=True)
        (tmp_path / name / "refs" / "main").write_text("0" * 40)
        shutil.copytree(folder, tmp_path / name / "snapshots" / ("0" * 40))
    weights = tmp_path / "models--team--old" / "snapshots" / ("0" * 40) / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    code = f"""from pipeline.errors import TkdError; from pipeline.teacher.base import load_base
load_base({str(folder)!r}, 4, "first_token"), load_base("team/new", 4, "first_token")
try: load_base("team/old", 4, "first_token")
except TkdError as error: print(error)"""
    cache = {**os.environ, "HF_HUB_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=cache)
    assert done.stderr == "" and done.stdout.startswith("team/old: has no model.safetensors, and nothing else is read")


def config_of(folder, **changes):
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**described, **changes}))


def described_as(folder, **changes):
    described = json.loads((folder / "tkd_teacher.json").read_text())
    (folder / "tkd_teacher.json").write_text(json.dumps({**described, **changes}))


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def make_nan(folder):
    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"][0] = torch.nan
    save_file(weights, folder / "model.safetensors")


DAMAGES = {
    "no weights": (lambda t: (t / "model.safetensors").unlink(), "not a teacher: model.safetensors missing"),
    "no description": (lambda t: (t / "tkd_teacher.json").unlink(), "not a teacher: tkd_teacher.json missing"),
    "truncated weights": (lambda t: truncate(t / "model.safetensors"), "damaged teacher"),
    "truncated config": (lambda t: truncate(t / "config.json"), "damaged teacher"),
    "truncated description": (lambda t: truncate(t / "tkd_teacher.json"), "damaged teacher"),
    "empty weights": (lambda t: (t / "model.safetensors").write_bytes(b""), "damaged teacher"),
    "other sizes": (lambda t: config_of(t, hidden_size=64), "damaged teacher .*size mismatch"),
    "other types": (lambda t: config_of(t, hidden_size="many"), "damaged teacher .*hidden_size"),
    "more layers": (lambda t: config_of(t, num_hidden_layers=4), "damaged teacher .*Missing key"),
    "other description": (lambda t: described_as(t, colour="red"), "damaged teacher .*colour"),
    "fewer labels": (lambda t: described_as(t, labels=["a"]), "damaged teacher .*size mismatch"),
    "a list": (lambda t: (t / "tkd_teacher.json").write_text("[]"), "damaged teacher"),
    "unknown readout": (lambda t: described_as(t, readout="last"), "damaged teacher .readout last"),
    "other family": (
        lambda t: config_of(t, model_type="bert"),
        "model type bert cannot be a teacher.*: wav2vec2",
    ),
    "adapter": (lambda t: config_of(t, add_adapter=True), "adapter"),
    "diverged": (make_nan, "damaged teacher .*NaN"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_teacher_is_one_clear_line(tmp_path, damage):
    harm, message = DAMAGES[damage]
    folder = tiny_folder(tmp_path / "t", "abc")
    harm(folder)
    with pytest.raises(TkdError, match=message) as caught:
        load_teacher(str(folder))
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_missing_teacher_names_the_nearest(tmp_path):
    tiny_folder(tmp_path / "kitchen", "abc")
    with pytest.raises(TkdError, match=r"no such teacher folder. Did you mean kitchen\? Known: bundled, kitchen\."):
        load_teacher(str(tmp_path / "kitchn"))


BASE_DAMAGES = {
    "truncated weights": (lambda t: truncate(t / "model.safetensors"), "no encoder could be loaded"),
    "no weights": (lambda t: (t / "model.safetensors").unlink(), "has no model.safetensors.*docs/teachers.md"),
    "other sizes": (lambda t: config_of(t, intermediate_size=64), "tensors that its config.json asks for"),
    "more layers": (lambda t: config_of(t, num_hidden_layers=4), "tensors that its config.json asks for"),
    "other types": (lambda t: config_of(t, hidden_size="many"), "no encoder could be loaded .*hidden_size"),
    "other family": (lambda t: config_of(t, model_type="bert"), "model type bert cannot be a teacher"),
    "unheard of": (lambda t: config_of(t, model_type="nosuch"), "no encoder could be loaded"),
    "no folder": (shutil.rmtree, "no encoder could be loaded"),
}


@pytest.mark.parametrize("damage", BASE_DAMAGES)
def test_a_base_that_is_none_is_one_clear_line(tmp_path, damage):
    harm, message = BASE_DAMAGES[damage]
    folder = tiny_folder(tmp_path / "t", "abc")
    harm(folder)
    with pytest.raises(TkdError, match=message) as caught:
        load_base(str(folder), 3, "first_token")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ["nosuch/model", "no such, model", "missing.json"])
def test_a_base_name_that_does_not_exist_is_one_clear_line(name):
    with pytest.raises(TkdError, match=r"no encoder could be loaded .*Give small, bundled, a config.json"):
        load_base(name, 3, "first_token")


def test_small_is_the_bundled_teachers_architecture():
    shapes = [
        {name: tensor.shape for name, tensor in load_base(base, 12, "first_token").state_dict().items()}
        for base in ("small", "bundled")
    ]
    assert shapes[0] == shapes[1]
    teacher = load_base("small", 12, "first_token")
    assert (teacher.hop_length, teacher.n_frames(64000)) == (320, 199)


def manifest_of(root, labels, lengths=(16000,), task="single_label"):
    clips = tuple(Clip(f"c{i}", "train", (0,), n) for i, n in enumerate(lengths))
    return Manifest(root, DatasetInfo("d", task, tuple(labels), "CC0"), clips)


def test_a_teacher_of_other_labels_is_refused(tmp_path):
    _, info, _ = load_teacher(str(tiny_folder(tmp_path / "t", "abc")))
    require_labels(info, manifest_of(tmp_path, "abc"), "t")
    with pytest.raises(TkdError, match=r"teacher t knows a, b, c; dataset .* has a, c, b. Give its own with --teacher"):
        require_labels(info, manifest_of(tmp_path, "acb"), "t")


def test_clips_shorter_than_a_frame_are_counted_and_named(tmp_path):
    require_lengths(manifest_of(tmp_path, "ab", [640]), 640)
    with pytest.raises(
        TkdError, match=r"6 clips are shorter than the 640 samples needed: c1 \(639\), .*c5 \(0\), \.\.\."
    ):
        require_lengths(manifest_of(tmp_path, "ab", [640, 639, 1, 2, 3, 0, 7]), 640)


def test_a_convolution_of_thin_groups_is_not_rounded_on_a_cpu():
    """On some CPUs its bfloat16 result is another altogether; copies go by their own weights."""
    teacher = tiny_teacher()
    conv = teacher.encoder.encoder.pos_conv_embed.conv
    assert (conv.in_channels // conv.groups, conv.kernel_size) == (8, (16,))
    x = torch.randn(2, 32, 49)
    with torch.no_grad():
        exact = conv(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(conv(x.bfloat16()), conv(x.bfloat16().float()))
            assert torch.equal(conv(x), exact)
        other = copy.deepcopy(teacher).encoder.encoder.pos_conv_embed.conv
        conv.bias += 1
        assert torch.equal(other(x), exact)
        torch.testing.assert_close(conv(x), exact + 1)
