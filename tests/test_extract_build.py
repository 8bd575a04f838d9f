"""Stage one as a whole: real teachers, real audio, real stores; and what stops it half-way."""

import dataclasses
import hashlib
import shutil
from itertools import chain

import numpy as np
import pytest
import soundfile
import torch
import zarr
from test_teacher_model import DAMAGES, tiny_folder, tiny_teacher
from test_teacher_training import command, killed_when

from cache_schema import CacheError, describe_cache, validate_cache
from pipeline.data.audio import render_clip, to_waveform
from pipeline.data.clip import Clip
from pipeline.data.manifest import DatasetInfo, Manifest, read_manifest, write_manifest
from pipeline.errors import TkdError
from pipeline.extract.attention import pool_attention
from pipeline.extract.build import build_cache
from pipeline.extract.config import BuildConfig, Share
from pipeline.extract.features import LogMel, LogMelConfig
from pipeline.extract.plan import plan_build
from pipeline.extract.targets import batches_of, n_lanes, run_teacher
from pipeline.teacher.clips import collate
from pipeline.teacher.model import load_teacher

LABELS = ("lamp", "lights")
UNEQUAL = (9000, 16000, 640, 9001, 16000, 3000, 9000, 12345, 16000, 700)


def recorded(root, lengths) -> Manifest:
    """A dataset of crops of one noisy recording."""
    root.mkdir()
    rng = np.random.default_rng(0)
    tone = np.sin(np.cumsum(np.linspace(0.01, 1, 48000)))
    soundfile.write(root / "noise.flac", 0.1 * rng.normal(size=48000) + 0.3 * tone, 16000)
    splits = [("train", "validation", "test")[min(i * 4 // len(lengths), 2)] for i in range(len(lengths))]
    clips = [
        Clip(f"c{i:05d}", split, (i % 2,), n, noise_file="noise.flac", noise_offset=97 * i, noise_gain=0.8)
        for i, (n, split) in enumerate(zip(lengths, splits, strict=True))
    ]
    write_manifest(root, DatasetInfo("recorded", "single_label", LABELS, "CC0"), clips)
    return read_manifest(root)


@pytest.fixture
def unequal(tmp_path) -> Manifest:
    return recorded(tmp_path / "data", UNEQUAL)


def files_of(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def one_at_a_time(manifest: Manifest, folder):
    """What the cache must hold, by clip: rollout, head weights, logits."""
    teacher, _, _ = load_teacher(str(folder))
    for clip in manifest.clips:
        waveform = to_waveform(render_clip(manifest.root, clip))
        yield clip, pool_attention(teacher, collate([{"waveform": waveform}])["input_values"])


KINDS = {
    "layer norm": {},
    "group norm": {"feat_extract_norm": "group", "do_stable_layer_norm": False},
    "data2vec-audio": {"model_type": "data2vec-audio"},
    "mean readout": {"readout": "mean"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_clips_of_unequal_length_get_the_weights_of_one_clip_at_a_time(unequal, tmp_path, kind):
    folder = tiny_folder(tmp_path / "t", LABELS, tiny_teacher(n_classes=2, **KINDS[kind]))
    build_cache(unequal, str(folder), tmp_path / "c.zarr", BuildConfig(batch_size=2.5))
    assert validate_cache(tmp_path / "c.zarr") == []
    cache = zarr.open_group(tmp_path / "c.zarr", mode="r")
    build_cache(unequal, str(folder), tmp_path / "each.zarr", BuildConfig(batch_size=0.01))
    each = zarr.open_group(tmp_path / "each.zarr", mode="r")
    for row, (clip, pooled) in enumerate(one_at_a_time(unequal, folder)):
        n_frames = int(pooled.lengths)
        assert cache["clip_id"][row] == clip.clip_id and cache["n_frames"][row] == n_frames
        np.testing.assert_allclose(cache["rollout"][row, :n_frames], pooled.rollout[0], rtol=2e-3, atol=1e-6)
        np.testing.assert_allclose(cache["logits"][row], pooled.logits[0], rtol=2e-3, atol=1e-4)
        assert (cache["rollout"][row, n_frames:] == 0).all()
        # one step of the logarithmic code is the most that rounding may move
        steps = cache["head_weights"][row].astype(int) - each["head_weights"][row].astype(int)
        assert np.abs(steps).max() <= 1


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_batches_hold_every_clip_once_within_the_seconds_and_with_little_padding(norm):
    rng = np.random.default_rng(0)
    lengths = [*rng.integers(4800, 480000, 300).tolist(), *[4800] * 200, 2_000_000]  # 0.3 to 30 s, and 125 s
    clips = [Clip(f"{i}", "train", (0,), n) for i, n in enumerate(lengths)]
    teacher = tiny_teacher(feat_extract_norm=norm, do_stable_layer_norm=norm == "layer")
    batches = list(batches_of(clips, teacher, 64 * 16000))
    assert sorted(chain.from_iterable(batches)) == list(range(len(clips)))
    for batch in batches:
        heard, padded = sum(lengths[row] for row in batch), len(batch) * max(lengths[row] for row in batch)
        assert padded <= 64 * 16000 or len(batch) == 1
        assert padded - heard <= (0.1 * padded if norm == "layer" else 0)
    assert len(batches[-1]) > 100, "short clips fill a batch"
    n_samples = sum(lengths)
    assert norm == "group" or len(batches) < 2 * n_samples / (64 * 16000)


def test_rows_features_and_checksums_are_the_clips(unequal, tmp_path):
    folder = tiny_folder(tmp_path / "t", LABELS)
    build_cache(unequal, str(folder), tmp_path / "c.zarr", BuildConfig(keep="layers"))
    cache, log_mel = zarr.open_group(tmp_path / "c.zarr", mode="r"), LogMel(LogMelConfig())
    assert "layer_weights" in cache and "head_weights" not in cache
    for row, clip in enumerate(unequal.clips):
        pcm = render_clip(unequal.root, clip)
        features = log_mel(to_waveform(pcm))
        n_frames = cache["n_feature_frames"][row]
        assert n_frames == features.shape[1]
        np.testing.assert_allclose(cache["features"][row, :, :n_frames], features, rtol=1e-3, atol=1e-3)
        assert cache["audio_sha256"][row] == hashlib.sha256(pcm.astype("<i2").tobytes()).hexdigest()
        assert (cache["label"][row], cache["event_start"][row]) == (clip.labels[0], -1)
    described = describe_cache(tmp_path / "c.zarr")
    teacher = load_teacher(str(folder))[0]
    assert described["teacher"]["n_layers"] == 3 and described["teacher"]["n_heads"] == 2
    assert described["teacher"]["hop_length"] == teacher.hop_length == 320
    assert described["teacher"]["frame_offset"] == teacher.frame_offset == 259.5
    assert described["teacher"]["sha256"] == load_teacher(str(folder))[2]


def test_how_many_forward_passes_run_at_once_changes_no_bit(tmp_path):
    """Of float32, before it is rounded: one pass by several threads, which sum in another order, would."""
    data = recorded(tmp_path / "data", [16000 + 320 * i for i in range(12)])
    write_manifest(data.root, dataclasses.replace(data.info, labels=load_teacher("bundled")[1].labels), data.clips)
    plan = plan_build(read_manifest(data.root), "bundled", BuildConfig(batch_size=3))
    n_threads, said = torch.get_num_threads(), {}
    try:
        for n in (1, 3):
            torch.set_num_threads(n)
            assert n_lanes() == n
            said[n] = run_teacher(plan, plan.manifest.clips)
    finally:
        torch.set_num_threads(n_threads)
    for name, values in said[1].items():
        assert np.array_equal(values, said[3][name]), name


def test_building_twice_gives_the_same_bytes(tiny_data, tiny_cache, tmp_path, capfd):
    cache_id = build_cache(tiny_data, "bundled", tmp_path / "again.zarr", BuildConfig()).cache_id
    assert cache_id == describe_cache(tiny_cache)["cache_id"]
    assert files_of(tmp_path / "again.zarr") == files_of(tiny_cache)
    out, err = capfd.readouterr()
    assert out == "" and [line for line in err.splitlines() if not line.startswith("running the teacher: ")] == []


def test_the_bundled_teachers_rollout_is_its_definition(tiny_data, tiny_cache):
    teacher, _, _ = load_teacher("bundled")
    teacher.encoder.set_attn_implementation("eager")
    rollouts = zarr.open_group(tiny_cache, mode="r")["rollout"]
    for row in (0, 50, 95):
        waveform = to_waveform(render_clip(tiny_data.root, tiny_data.clips[row]))
        inputs = collate([{"waveform": waveform}])["input_values"]
        with torch.no_grad():
            maps = teacher.encoder(inputs, output_attentions=True).attentions
        product = np.eye(len(rollouts[row]))
        for layer in maps:
            mixed = 0.5 * layer[0].double().mean(0).numpy() + 0.5 * np.eye(len(product))
            product = mixed / mixed.sum(1, keepdims=True) @ product
        np.testing.assert_allclose(rollouts[row], product[0], rtol=1e-3, atol=1e-6)


def test_mixed_precision_is_written_without_complaint_and_stays_close(tiny_data, tiny_cache, tmp_path):
    build_cache(tiny_data, "bundled", tmp_path / "b.zarr", BuildConfig(bfloat16=True))
    assert validate_cache(tmp_path / "b.zarr") == []
    assert describe_cache(tmp_path / "b.zarr")["cache_id"] != describe_cache(tiny_cache)["cache_id"]
    mixed, exact = (zarr.open_group(path, mode="r")["rollout"][:] for path in (tmp_path / "b.zarr", tiny_cache))
    assert np.abs(mixed.astype(float) - exact).sum(axis=1).max() < 0.1


def test_a_killed_build_goes_on_and_ends_identical(tmp_path):
    manifest = recorded(tmp_path / "data", [2400] * 1400)  # three partitions
    folder = tiny_folder(tmp_path / "t", LABELS)
    arguments = ("cache", "build", "--data", manifest.root, "--teacher", folder, "--out")
    killed_when(tmp_path / "c.zarr.partial" / "partitions" / "00000.json", *arguments, tmp_path / "c.zarr")
    assert not (tmp_path / "c.zarr").exists()
    first = tmp_path / "c.zarr.partial" / "rollout" / "c" / "0"
    written = [file.stat().st_mtime_ns for file in sorted(first.rglob("*"))]
    result = command(*arguments, tmp_path / "c.zarr")
    assert result.exit_code == 0, result.output
    first = tmp_path / "c.zarr" / "rollout" / "c" / "0"
    assert [file.stat().st_mtime_ns for file in sorted(first.rglob("*"))] == written, "it began all over"
    cache_id = build_cache(manifest, str(folder), tmp_path / "whole.zarr", BuildConfig()).cache_id
    assert result.stdout == f"{tmp_path / 'c.zarr'}: complete, cache_id {cache_id}\n"
    assert files_of(tmp_path / "c.zarr") == files_of(tmp_path / "whole.zarr")
    visible = sorted(entry.name for entry in tmp_path.iterdir() if not entry.name.startswith("."))
    assert visible == ["c.zarr", "data", "t", "whole.zarr"]


def test_audio_that_is_gone_stops_the_build_and_nothing_looks_complete(unequal, tmp_path):
    folder = tiny_folder(tmp_path / "t", LABELS)
    (unequal.root / "noise.flac").rename(tmp_path / "noise.flac")
    result = command("cache", "build", "--data", unequal.root, "--teacher", folder, "--out", tmp_path / "c.zarr")
    assert result.exit_code == 1 and "noise.flac: " in result.stderr and "Error: " in result.stderr
    assert not (tmp_path / "c.zarr").exists()
    (tmp_path / "noise.flac").rename(unequal.root / "noise.flac")
    build_cache(unequal, str(folder), tmp_path / "c.zarr", BuildConfig())
    assert validate_cache(tmp_path / "c.zarr") == []


def test_a_clip_shorter_than_a_frame_is_refused_before_the_work(unequal, tmp_path):
    short = dataclasses.replace(unequal, clips=(*unequal.clips, Clip("blip", "test", (0,), 639)))
    with pytest.raises(TkdError, match=r"1 clips are shorter than the 640 samples needed: blip \(639\)"):
        build_cache(short, str(tiny_folder(tmp_path / "t", LABELS)), tmp_path / "c.zarr", BuildConfig())
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["data", "t"]


def test_a_teacher_of_other_labels_is_refused(unequal, tmp_path):
    with pytest.raises(TkdError, match=r"knows lights, lamp; dataset .* has lamp, lights. Give its own with --teacher"):
        build_cache(unequal, str(tiny_folder(tmp_path / "t", LABELS[::-1])), tmp_path / "c.zarr", BuildConfig())


@pytest.mark.parametrize("damage", ["truncated weights", "no description", "other family", "other sizes"])
def test_a_damaged_teacher_is_one_clear_line(unequal, tmp_path, damage):
    folder = tiny_folder(tmp_path / "t", LABELS)
    DAMAGES[damage][0](folder)
    result = command("cache", "build", "--data", unequal.root, "--teacher", folder, "--out", tmp_path / "c.zarr")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"Error: {folder}: ") and len(result.stderr.splitlines()) == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["data", "t"]


def test_a_cache_that_is_there_is_said_to_be_and_nothing_is_run(unequal, tmp_path):
    folder, out = tiny_folder(tmp_path / "t", LABELS), tmp_path / "c.zarr"
    arguments = ("cache", "build", "--data", unequal.root, "--teacher", folder, "--out", out)
    first = command(*arguments)
    assert first.stdout == f"{out}: complete, cache_id {describe_cache(out)['cache_id']}\n"
    before = files_of(out)
    (unequal.root / "noise.flac").unlink()
    again = command(*arguments)
    assert (again.exit_code, again.stderr) == (0, "")
    assert again.stdout == f"{out}: complete already, cache_id {describe_cache(out)['cache_id']}\n"
    assert command(*arguments, "--force").exit_code == 1  # that would need the recordings
    assert files_of(out) == before


def test_a_cache_of_something_else_is_replaced_only_by_force(unequal, tmp_path):
    folder, out = str(tiny_folder(tmp_path / "t", LABELS)), tmp_path / "c.zarr"
    build_cache(unequal, folder, out, BuildConfig())
    moved = dataclasses.replace(unequal.clips[3], noise_offset=1)
    other = dataclasses.replace(unequal, clips=(*unequal.clips[:3], moved, *unequal.clips[4:]))
    for manifest, config, difference in (
        (unequal, BuildConfig(keep="layers"), "layout.keep is 'heads', would be 'layers'. --force"),
        (unequal, BuildConfig(bfloat16=True), "pooling.arithmetic is 'float32', would be 'bfloat16'. --force"),
        (unequal, BuildConfig(with_features=False), "layout.with_features is True, would be False. --force"),
        (unequal, BuildConfig(partition_size=4), "layout.partition_size is 512, would be 4. --force"),
        (other, BuildConfig(), "dataset.manifest_sha256 is '"),
    ):
        with pytest.raises(TkdError, match=f"c.zarr: a complete cache of something else: {difference}"):
            build_cache(manifest, folder, out, config)
    assert build_cache(unequal, folder, out, BuildConfig(batch_size=3)).already
    built = build_cache(unequal, folder, out, BuildConfig(keep="layers"), force=True)
    assert not built.already and describe_cache(out)["layout"]["keep"] == "layers"
    shutil.rmtree(out)
    out.write_text("years of work")
    for force in (False, True):
        with pytest.raises(CacheError):
            build_cache(unequal, folder, out, BuildConfig(), force)
    assert out.read_text() == "years of work"


def test_what_a_killed_job_left_beside_the_whole_cache_is_cleared_away(unequal, tmp_path):
    folder, out = str(tiny_folder(tmp_path / "t", LABELS)), tmp_path / "c.h5"
    build_cache(unequal, folder, tmp_path / "c.zarr", BuildConfig())
    build_cache(unequal, folder, out, BuildConfig())
    (tmp_path / "c.zarr").rename(tmp_path / "c.h5.partial")
    (tmp_path / "c.h5.discarded").mkdir()
    assert build_cache(unequal, folder, out, BuildConfig()).already
    assert sorted(entry.name for entry in tmp_path.glob("c.*")) == ["c.h5"]
    build_cache(unequal, folder, tmp_path / "b.h5", BuildConfig(partition_size=4), share=Share(0, 2))
    (tmp_path / "b.h5.partial").rename(tmp_path / "c.h5.partial")  # of another cache that is to be there
    assert build_cache(unequal, folder, out, BuildConfig()).already
    assert (tmp_path / "c.h5.partial").exists()


def test_a_damaged_cache_is_not_taken_for_complete(unequal, tmp_path):
    folder, out = str(tiny_folder(tmp_path / "t", LABELS)), tmp_path / "c.zarr"
    build_cache(unequal, folder, out, BuildConfig())
    text = (out / "zarr.json").read_text()
    (out / "zarr.json").write_text(text.replace('"licence": "CC0"', '"licence": "none"'))
    with pytest.raises(CacheError, match=r"one was altered. .* --force"):
        build_cache(unequal, folder, out, BuildConfig())


def test_every_container_is_built_and_named_by_its_ending(unequal, tmp_path):
    folder = str(tiny_folder(tmp_path / "t", LABELS))
    ids = {build_cache(unequal, folder, tmp_path / name, BuildConfig()).cache_id for name in ("c.zarr", "c.h5")}
    assert len(ids) == 1 and (tmp_path / "c.h5").is_file()
    assert build_cache(unequal, folder, tmp_path / "c.h5", BuildConfig()).already
    with pytest.raises(CacheError, match=r"cache: the name of a cache ends in .zarr or .h5"):
        build_cache(unequal, folder, tmp_path / "cache", BuildConfig())


@pytest.mark.parametrize(
    ("option", "code"),
    [
        (("--keep", "everything"), 2),
        (("--batch-size", "0"), 2),
        (("--out", "cache.zip"), 1),
        (("--partition-size", "100"), 2),
        (("--teacher", "nosuch"), 1),
        (("--data", "nosuch"), 1),
    ],
)
def test_one_wrong_option_is_one_line_and_an_exit_code(unequal, tmp_path, option, code):
    result = command("cache", "build", "--data", unequal.root, "--out", tmp_path / "c.zarr", *option)
    assert (result.exit_code, result.stdout) == (code, "")
    assert len([line for line in result.stderr.splitlines() if line.startswith("Error")]) == 1
