"""Checkpoints of the whole wav2vec 2.0 family, as the hub stores them: what is loaded is what was pretrained."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from test_teacher_model import SMALL, tiny_config, tiny_folder, tiny_teacher, truncate, waveforms
from transformers import AutoFeatureExtractor, AutoModel, Wav2Vec2FeatureExtractor

from cache_schema import open_cache
from pipeline.data.audio import render_clip, to_waveform
from pipeline.data.clip import Clip
from pipeline.data.manifest import DatasetInfo, Manifest
from pipeline.errors import TkdError
from pipeline.extract.build import build_cache
from pipeline.extract.config import BuildConfig
from pipeline.teacher.base import load_base, weights_sha256
from pipeline.teacher.checkpoint import FAMILY
from pipeline.teacher.clips import LikeLengths, TrainingClips, collate
from pipeline.teacher.model import Teacher, load_teacher, save_teacher

# As published: bare, with a CTC head, with a pretraining head and a quantiser, with a classifier.
HEADS = [
    ("wav2vec2", "Wav2Vec2Model"),
    ("wav2vec2", "Wav2Vec2ForPreTraining"),  # facebook/wav2vec2-large-xlsr-53
    ("wav2vec2", "Wav2Vec2ForCTC"),
    ("wav2vec2", "Wav2Vec2ForSequenceClassification"),
    ("hubert", "HubertModel"),
    ("hubert", "HubertForCTC"),
    ("wavlm", "WavLMModel"),
    ("wavlm", "WavLMForXVector"),
    ("data2vec-audio", "Data2VecAudioModel"),
    ("data2vec-audio", "Data2VecAudioForCTC"),
    ("unispeech", "UniSpeechForPreTraining"),
    ("unispeech-sat", "UniSpeechSatForPreTraining"),
]
LATER = ("parametrizations.weight.original1", "weight_v")
PRETRAINING = {"codevector_dim": 32, "proj_codevector_dim": 32, "num_codevectors_per_group": 8, "tdnn_dim": [32] * 5}
KINDS = [(kind, norm) for kind in FAMILY for norm in ("layer", "group") if (kind, norm) != ("data2vec-audio", "layer")]


def hub_folder(folder, model, **preprocessor):
    """A checkpoint in the hub's layout."""
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(**preprocessor).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("kind", "head"), HEADS)
def test_the_encoder_under_any_head_is_loaded_weight_by_weight(tmp_path, kind, head):
    config = tiny_config(kind, num_hidden_layers=2, mask_time_prob=0.05, **PRETRAINING)
    model = getattr(transformers, head)(config).eval()
    folder = hub_folder(tmp_path / "base", model, do_normalize=kind != "wavlm")
    weights = load_file(folder / "model.safetensors")
    for name in [name for name in weights if ".parametrizations." in name]:  # most were saved by an older torch
        weights[name.replace("parametrizations.weight.original0", "weight_g").replace(*LATER)] = weights.pop(name)
    save_file(weights, folder / "model.safetensors")
    teacher = load_base(str(folder), 3, "first_token").eval()
    encoder = getattr(model, model.base_model_prefix) if hasattr(model, model.base_model_prefix) else model
    inputs, mask = waveforms(6000, 4000) if not teacher.needs_equal_lengths else waveforms(6000)
    expected = encoder(inputs, attention_mask=mask).last_hidden_state
    assert torch.equal(teacher.encoder(inputs, attention_mask=mask).last_hidden_state, expected)
    assert teacher.do_normalize == (kind != "wavlm")
    (tmp_path / "other").mkdir()
    again = load_base(str(hub_folder(tmp_path / "other", encoder)), 3, "first_token")
    assert weights_sha256(again) == weights_sha256(teacher)


def test_sharded_checkpoints_load(tmp_path):
    model = AutoModel.from_config(tiny_config())
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert load_base(str(tmp_path), 3, "mean").do_normalize


@pytest.mark.parametrize(("kind", "norm"), KINDS)
@pytest.mark.parametrize("readout", ["first_token", "mean"])
def test_padding_changes_nothing_or_is_known_to_change(kind, norm, readout):
    changes = {} if norm == "layer" else {"feat_extract_norm": "group", "do_stable_layer_norm": False}
    teacher = tiny_teacher(kind, readout, **(changes if kind != "data2vec-audio" else {}))
    lengths = (8000, 5000, 600)
    inputs, mask = waveforms(*lengths)
    together = teacher(inputs, mask)["logits"]
    alone = torch.cat([teacher(inputs[i : i + 1, :n])["logits"] for i, n in enumerate(lengths)])
    assert teacher.needs_equal_lengths == (norm == "group")
    torch.testing.assert_close(together[0], alone[0], atol=1e-4, rtol=0)  # the longest has no padding
    if norm == "layer":
        torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)
    else:
        assert (together - alone).abs().max() > 1e-3


def ragged(labels="ab", lengths=tuple(range(4000, 7200, 50))):
    """64 clips of as many lengths; no recordings, so they are silent."""
    clips = tuple(Clip(f"c{n}", "train", (0,), n) for n in reversed(lengths))
    return Manifest(Path(), DatasetInfo("ragged", "single_label", tuple(labels), "CC0"), clips)


def test_a_batch_is_of_like_lengths_and_an_epoch_has_every_clip_once():
    clips = TrainingClips(ragged(), seed=0)
    orders = []
    for clips.epoch in (0, 1, 0):
        orders.append(list(LikeLengths(clips, 4)))
        assert sorted(orders[-1]) == list(range(64))
    assert orders[0] == orders[2] != orders[1]
    spread = [np.ptp([clips.length(i) for i in orders[0][at : at + 4]]) for at in range(0, 64, 4)]
    assert np.mean(spread) < 1000  # of 3150; four at random: 1900
    clips.n_samples = 4000
    assert {clips.length(i) for i in range(64)} == {4000} and sorted(LikeLengths(clips, 4)) == list(range(64))


def test_where_padding_would_be_heard_a_batch_is_cropped_to_its_shortest():
    for equal in (True, False):
        batch = TrainingClips(ragged(), seed=0, equal_lengths=equal).__getitems__([0, 20, 40])
        assert [len(example["waveform"]) for example in batch] == ([5150] * 3 if equal else [7150, 6150, 5150])
        assert ("attention_mask" in collate(batch)) is not equal


def test_unnormalised_waveforms_reach_a_base_that_was_trained_on_them(tmp_path):
    teacher = load_base(str(hub_folder(tmp_path / "b", tiny_teacher("wavlm").encoder, do_normalize=False)), 3, "mean")
    waveform = np.random.default_rng(0).normal(0.1, 0.02, 3000).astype(np.float32)
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(tmp_path / "b")
    expected = extractor(waveform, sampling_rate=16000)["input_values"][0]
    assert np.array_equal(collate([{"waveform": waveform}], teacher.do_normalize)["input_values"][0], expected)
    folder = tiny_folder(tmp_path / "t", "abc", teacher)
    assert not load_teacher(str(folder))[0].do_normalize
    assert not Wav2Vec2FeatureExtractor.from_pretrained(folder).do_normalize


@pytest.mark.parametrize("do_normalize", [True, False])
def test_stage_one_feeds_a_teacher_as_its_base_was(tiny_data, tmp_path, do_normalize):
    """By the second route: the feature extractor that transformers finds in the teacher's folder."""
    teacher = tiny_teacher("wavlm", n_classes=12)
    teacher.do_normalize = do_normalize
    folder = tiny_folder(tmp_path / "t", tiny_data.info.labels, teacher)
    few = dataclasses.replace(tiny_data, clips=tiny_data.clips[::24])
    build_cache(few, str(folder), tmp_path / "c.zarr", BuildConfig())
    heard = [to_waveform(render_clip(few.audio_root, clip)) for clip in few.clips]
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    inputs = extractor(heard, sampling_rate=16000, return_tensors="pt", return_attention_mask=False)["input_values"]
    np.testing.assert_allclose(
        open_cache(tmp_path / "c.zarr").read("logits"), teacher(inputs)["logits"].detach(), atol=2e-3
    )


def test_a_teacher_fed_otherwise_is_another_teacher(tmp_path):
    teacher, info, digest = load_teacher(str(tiny_folder(tmp_path / "t", "abc")))
    teacher.do_normalize = False
    (tmp_path / "u").mkdir()
    save_teacher(teacher, info, tmp_path / "u")
    assert load_teacher(str(tmp_path / "u"))[2] != digest
    (tmp_path / "t" / "preprocessor_config.json").unlink()
    assert load_teacher(str(tmp_path / "t"))[0].do_normalize


def test_newer_checkpoints_say_it_in_processor_config(tmp_path):
    AutoModel.from_config(tiny_config()).save_pretrained(tmp_path)
    (tmp_path / "processor_config.json").write_text(json.dumps({"feature_extractor": {"do_normalize": False}}))
    assert not load_base(str(tmp_path), 3, "mean").do_normalize


def test_another_sample_rate_or_a_damaged_preprocessor_is_refused(tmp_path):
    folder = hub_folder(tmp_path / "b", AutoModel.from_config(tiny_config()), sampling_rate=8000)
    with pytest.raises(TkdError, match="hears audio at 8000 Hz, here all audio is at 16000 Hz"):
        load_base(str(folder), 3, "mean")
    truncate(folder / "preprocessor_config.json")
    with pytest.raises(TkdError, match="no encoder could be loaded"):
        load_base(str(folder), 3, "mean")


def test_pickled_weights_are_not_read_and_the_way_out_works(tmp_path):
    old = hub_folder(tmp_path / "old", transformers.Wav2Vec2ForPreTraining(tiny_config(**PRETRAINING)))
    weights = transformers.Wav2Vec2ForPreTraining.from_pretrained(old).state_dict()
    torch.save(weights, old / "pytorch_model.bin")
    (old / "model.safetensors").unlink()
    with pytest.raises(TkdError, match=r"has no model.safetensors, and nothing else is read.*docs/teachers\.md"):
        load_base(str(old), 3, "mean")
    documented = (Path(__file__).parents[1] / "docs" / "teachers.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```python\n(.*?)```", documented, re.DOTALL)
    script = script.replace("facebook/wav2vec2-large-xlsr-53", str(old)).replace("bases/xlsr", str(tmp_path / "new"))
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    new = load_base(str(tmp_path / "new"), 3, "mean").encoder.state_dict()
    assert all(torch.equal(new[name], weights[f"wav2vec2.{name}"]) for name in new)
    assert (tmp_path / "new" / "preprocessor_config.json").exists()


def test_the_published_large_configuration_is_read_as_published(tmp_path):
    """The entries of XLSR-53's config.json that decide the architecture; one is from before this library's time."""
    published = {
        "architectures": ["Wav2Vec2ForPreTraining"],
        "model_type": "wav2vec2",
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
        "conv_bias": True,
        "gradient_checkpointing": False,
        "layerdrop": 0.1,
        "mask_time_prob": 0.075,
        **{name: SMALL[name] for name in ("conv_dim", "conv_kernel", "conv_stride", "num_feat_extract_layers")},
        **{name: SMALL[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")},
        **{name: SMALL[name] for name in ("intermediate_size", "num_conv_pos_embeddings")},
        "num_conv_pos_embedding_groups": 4,
    }
    (tmp_path / "xlsr.json").write_text(json.dumps(published))
    teacher = load_base(str(tmp_path / "xlsr.json"), 12, "first_token")
    assert isinstance(teacher, Teacher) and not teacher.needs_equal_lengths
    assert (teacher.encoder.config.layerdrop, teacher.encoder.config.mask_time_prob) == (0.1, 0.075)
