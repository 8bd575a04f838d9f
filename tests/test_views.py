"""Views: further renderings of training clips, from the manifest through the cache to the epochs of a student."""

import dataclasses
import json
import math
from itertools import pairwise

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from test_extract_attach import with_clips
from test_extract_build import LABELS, files_of
from test_teacher_model import tiny_folder
from test_teacher_training import command

from cache_schema import STATE_KEYS, CacheError, create_cache, describe_cache, open_cache, validate_cache
from pipeline.data.audio import render_clip
from pipeline.data.clip import Clip
from pipeline.data.manifest import DatasetInfo, Manifest, read_manifest, write_manifest
from pipeline.data.views import ViewRecipe, with_views
from pipeline.distill.config import TrainConfig
from pipeline.distill.data import CacheDataset, load_splits
from pipeline.distill.data.order import POOL, clips_of, one_view, shuffled
from pipeline.distill.train import train
from pipeline.errors import TkdError
from pipeline.extract.attach import AudioFaults, attach_features
from pipeline.extract.build import build_cache
from pipeline.extract.config import BuildConfig, Share
from pipeline.extract.verify import draw, verify_cache

N_VIEWS = 2
CONFIG = BuildConfig(keep="rollout", partition_size=8, views=N_VIEWS, seed=5)
SMALL = {"student": "tc_resnet", "epochs": 2, "batch_size": 8}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Manifest:
    """Own recordings without noise, 0.9 s of near silence with a loud tone in a known place; mono and at 44.1 kHz."""
    root = tmp_path_factory.mktemp("data") / "own"
    root.mkdir()
    rng, clips = np.random.default_rng(0), []
    for i in range(40):
        split, rate = ("train", "validation", "test")[min(i // 24, 1) + (i >= 32)], (16000, 44100)[i % 2]
        start, stop = np.sort(rng.choice(np.arange(0, 9, 2) / 10 + 0.05, 2, replace=False))
        time = np.arange(round(0.9 * rate)) / rate
        tone = 0.5 * np.sin(2 * np.pi * 1000 * time) * ((time >= start) & (time < stop))
        soundfile.write(root / f"{i}.wav", tone + 1e-4 * rng.standard_normal(len(time)), rate)
        event = {"event_start": round(16000 * start), "event_stop": round(16000 * stop)}
        clips.append(Clip(f"größer/{i}", split, (i % 2,), 14400, f"{i}.wav", **event))
    write_manifest(root, DatasetInfo("own", "single_label", LABELS, "CC0"), clips)
    return read_manifest(root)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    return str(tiny_folder(tmp_path_factory.mktemp("teacher") / "t", LABELS))


@pytest.fixture(scope="module")
def path(recordings, teacher, tmp_path_factory):
    out = tmp_path_factory.mktemp("caches") / "views.zarr"
    build_cache(recordings, teacher, out, CONFIG)
    return out


@pytest.fixture
def cache(path):
    return open_cache(path)


def loud(pcm: np.ndarray) -> tuple[int, int]:
    """Where the samples are that are not near silence."""
    found = np.flatnonzero(np.abs(pcm.astype(float)) > 0.1 * np.abs(pcm.astype(float)).max())
    return int(found[0]), int(found[-1]) + 1


def test_the_event_of_a_view_lies_where_the_sound_is_and_is_as_long_as_its_speed_makes_it(recordings):
    views = [clip for clip in with_views(recordings, ViewRecipe(4, 1)).clips if clip.view]
    originals = {clip.clip_id: clip for clip in recordings.clips}
    assert len(views) == 4 * 24
    for view in views:
        clip, pcm = originals[view.clip_id.removesuffix(f"#{view.view}")], render_clip(recordings.root, view)
        first, last = loud(pcm)
        assert abs(first - view.event_start) <= 24 and abs(last - view.event_stop) <= 24, view
        length = (clip.event_stop - clip.event_start) * 100 / view.speed_percent
        assert abs(view.event_stop - view.event_start - length) <= 2
        assert len(pcm) == clip.n_samples and view.labels == clip.labels
        assert abs(np.abs(np.fft.rfft(pcm, 16000)).argmax() - 10 * view.speed_percent) <= 5, "the pitch follows"
    assert {view.speed_percent for view in views} == {90, 95, 100, 105, 110}
    normal = [view for view in views if view.speed_percent == 100]
    shifts = [view.event_start - originals[view.clip_id[:-2]].event_start for view in normal]
    assert min(shifts) < -200 and max(shifts) > 200 and max(map(abs, shifts)) <= 1440  # a tenth of the clip
    levels = [np.abs(render_clip(recordings.root, view)).max() for view in views]
    assert max(levels) / min(levels) > 2


@pytest.mark.parametrize("event", [(-1, -1), (0, 14400), (0, 13900), (700, 14400), (5, 6)])
@pytest.mark.parametrize("n_samples", [14400, 700, 7])
def test_an_event_stays_inside_its_clip_or_fills_it(recordings, event, n_samples):
    start, stop = (min(time, n_samples) for time in event)
    if start == stop >= 0:
        start, stop = 0, n_samples
    row = Clip("c", "train", (0,), n_samples, "0.wav", event_start=start, event_stop=stop)
    for view in with_views(dataclasses.replace(recordings, clips=(row,)), ViewRecipe(60, 0)).clips[1:]:
        if start < 0:
            assert (view.event_start, view.event_stop) == (-1, -1)
            continue
        length = (stop - start) * 100 / view.speed_percent
        assert 0 <= view.event_start < view.event_stop <= n_samples
        assert abs(view.event_stop - view.event_start - min(length, n_samples)) <= 2


@pytest.mark.parametrize(
    ("n_recorded", "n_samples"), [(8000, 160000), (16000, 160000), (160000, 32000), (16000, 16000)]
)
def test_of_a_clip_without_event_a_view_keeps_the_sound(recordings, n_recorded, n_samples):
    """Padded to ten seconds, cut to its middle, or as long as it is: shifted by a tenth of a second, and no more.

    Each sample says where in the recording it is.
    """
    ramp = np.linspace(0.1, 0.9, n_recorded)
    soundfile.write(recordings.root / "ramp.wav", ramp, 16000, subtype="FLOAT")
    offset = min(0, (n_samples - n_recorded) // 2)
    row = Clip("c", "train", (0,), n_samples, "ramp.wav", speech_offset=offset)
    views = with_views(dataclasses.replace(recordings, clips=(row,)), ViewRecipe(80, 0)).clips[1:]
    assert {view.speed_percent for view in views} == {90, 95, 100, 105, 110}
    for view in views:
        pcm = render_clip(recordings.audio_root, dataclasses.replace(view, speech_gain=1.0)) / 32768
        faster, left = 100 / view.speed_percent, round(max(0, n_recorded * 100 / view.speed_percent - n_samples))
        heard = np.flatnonzero(pcm > 0.05)
        if n_recorded > n_samples:  # cut: the middle stays, but for the shift and what the speed makes of the length
            middle = (ramp[0] + ramp[-1]) / 2
            most = (1600 + abs(n_samples - n_samples * faster) / 2 + 20) / faster * 0.8 / n_recorded
            assert len(heard) == n_samples and abs(pcm[n_samples // 2] - middle) < most
        else:
            assert len(heard) >= min(n_samples, n_recorded * faster) - left - 1600 - 20
            assert heard[0] <= 1600 + abs(n_recorded - n_recorded * faster) + 20


def test_clips_mixed_from_speech_and_noise_are_mixed_anew_with_noise_of_the_training_split(tiny_data):
    few = [clip for clip in tiny_data.clips if clip.split != "train"][:3] + tiny_data.split("train")[:16]
    manifest = dataclasses.replace(tiny_data, clips=tuple(few))
    drawn = with_views(manifest, ViewRecipe(3, 0))
    originals = {clip.clip_id: clip for clip in few}
    noises = {clip.noise_file for clip in manifest.split("train")}
    low, high = tiny_data.info.recipe["snr_db"]
    recipes = set()
    for view in (clip for clip in drawn.clips if clip.view):
        clip = originals[view.clip_id[:-2]]
        assert view.noise_file in noises and view.n_samples == clip.n_samples
        assert (view.speech_file, view.labels, view.split) == (clip.speech_file, clip.labels, "train")
        assert view.noise_offset != clip.noise_offset
        if clip.speech_file:
            assert low <= view.snr_db <= high and view.snr_db != clip.snr_db
            length = min(math.ceil((clip.event_stop - clip.event_start) * 100 / view.speed_percent), view.n_samples)
            assert abs(view.event_stop - view.event_start - length) <= 1
            heard = render_clip(tiny_data.audio_root, view).astype(float)
            noise = render_clip(tiny_data.audio_root, dataclasses.replace(view, speech_file=None)).astype(float)
            inside = np.abs(heard - noise) > 0
            assert inside[: view.event_start].sum() == inside[view.event_stop :].sum() == 0 < inside.sum()
        recipes.add((view.speed_percent, view.noise_offset, view.event_start, view.noise_gain))
    assert len(recipes) == 48


def test_views_are_drawn_from_seed_and_clip_alone(recordings):
    drawn = {clip.clip_id: clip for clip in with_views(recordings, ViewRecipe(2, 7)).clips}
    more = {clip.clip_id: clip for clip in with_views(recordings, ViewRecipe(3, 7)).clips}
    other = {clip.clip_id: clip for clip in with_views(recordings, ViewRecipe(2, 8)).clips}
    half = dataclasses.replace(recordings, clips=recordings.clips[::2])
    assert drawn.items() < more.items()
    assert {clip.clip_id: clip for clip in with_views(half, ViewRecipe(2, 7)).clips}.items() < drawn.items()
    assert sum(other[name] == clip for name, clip in drawn.items() if clip.view) < 3
    again = with_views(recordings, ViewRecipe(2, 7))
    assert tuple(drawn.values()) == again.clips and with_views(again, ViewRecipe(2, 7)) is again
    with pytest.raises(TkdError, match="has 2 views of each training clip, 3 are asked for"):
        with_views(again, ViewRecipe(3, 7))


def test_silence_is_another_crop_of_its_own_stretch(recordings):
    soundfile.write(recordings.root / "noise.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 64000), 16000)
    stretch = {"noise_file": "noise.wav", "noise_start": 1000, "noise_stop": 40000, "noise_gain": 1.0}
    row = Clip("silence", "train", (0,), 16000, noise_offset=2000, **stretch)
    views = with_views(dataclasses.replace(recordings, clips=(row,)), ViewRecipe(20, 0)).clips
    assert len({view.noise_offset for view in views}) == 21
    assert all(1000 <= view.noise_offset <= 24000 for view in views)


def test_a_clip_with_the_name_of_a_view_is_refused(recordings):
    taken = dataclasses.replace(recordings.clips[-1], clip_id=f"{recordings.split('train')[0].clip_id}#2")
    manifest = dataclasses.replace(recordings, clips=(*recordings.clips[:-1], taken))
    with pytest.raises(TkdError, match=r"clip größer/\d+#2 has the name of a view\. Rename its recording"):
        with_views(manifest, ViewRecipe(2, 0))


@pytest.mark.parametrize("views", [-1, 255, 10**9])
def test_a_number_of_views_that_a_cache_cannot_hold_is_refused(views):
    with pytest.raises(TkdError, match=f"views {views}: expected 0 to 254"):
        BuildConfig(views=views)


def test_views_are_training_rows_with_weights_and_audio_of_their_own(path, cache, recordings, teacher, tmp_path):
    build_cache(recordings, teacher, tmp_path / "plain.zarr", dataclasses.replace(CONFIG, views=0))
    plain = open_cache(tmp_path / "plain.zarr")
    assert validate_cache(path) == [] and "views" not in plain.metadata["dataset"]
    assert cache.metadata["dataset"]["manifest_sha256"] == plain.metadata["dataset"]["manifest_sha256"]
    ids, views, splits = (cache.read(name) for name in ("clip_id", "view", "split"))
    assert np.bincount(views[splits == 0]).tolist() == [24, 24, 24] and not views[splits != 0].any()
    row_of = {name: row for row, name in enumerate(ids)}
    rows = [row_of[clip] for clip in plain.read("clip_id")]
    for name in ("features", "audio_sha256", "label", "event_start", "n_frames"):
        assert np.array_equal(cache.read(name)[rows], plain.read(name)), name
    for name in ("rollout", "logits"):  # but for the batches that clips are in
        np.testing.assert_allclose(cache.read(name)[rows], plain.read(name), rtol=2e-3, atol=1e-5, err_msg=name)
    rollouts, digests = cache.read("rollout"), cache.read("audio_sha256")
    for row in np.flatnonzero(views == 0)[:24]:
        rows = [row, row_of[f"{ids[row]}#1"], row_of[f"{ids[row]}#2"]]
        assert len(set(digests[rows])) == 3
        assert min(np.abs(rollouts[a].astype(float) - rollouts[b]).sum() for a, b in pairwise(rows)) > 1e-3


def test_the_same_seed_gives_the_same_cache_also_from_shares(path, cache, recordings, teacher, tmp_path):
    again = tmp_path / "again.zarr"
    assert build_cache(recordings, teacher, again, CONFIG, share=Share(1, 2)).cache_id is None
    assert build_cache(recordings, teacher, again, CONFIG).cache_id == cache.metadata["cache_id"]
    assert files_of(again) == files_of(path)
    other = build_cache(recordings, teacher, tmp_path / "o.h5", dataclasses.replace(CONFIG, seed=6)).cache_id
    assert other != cache.metadata["cache_id"]
    with pytest.raises(TkdError, match=r"something else: .*dataset.views"):
        build_cache(recordings, teacher, again, dataclasses.replace(CONFIG, views=0))


def test_a_cache_with_views_is_built_shown_and_verified_by_commands(path, cache, recordings, teacher, tmp_path):
    out = tmp_path / "c.zarr"
    build = ("cache", "build", "--data", recordings.root, "--teacher", teacher, "--keep", "rollout", "--out", out)
    result = command(*build, "--partition-size", 8, "--views", 2, "--seed", 5)
    assert result.stdout == f"{out}: complete, cache_id {cache.metadata['cache_id']}\n", result.output
    shown = command("cache", "info", out).stdout
    assert "24 train, 8 validation, 8 test clips" in shown
    assert "views     48 further renderings of the training clips" in shown
    assert describe_cache(out)["dataset"]["views"]["n"] == 2
    assert any(cache.read("view")[draw(cache, range(88), 40, seed=0)])
    result = command("cache", "verify", out, "--data", recordings.root, "--teacher", teacher, "--clips", 40)
    assert result.exit_code == 0, result.output
    assert command(*build, "--views", 300).exit_code == 2


def test_a_detached_cache_gets_the_features_of_its_views(path, cache, recordings, teacher, tmp_path):
    detached = tmp_path / "detached.zarr"
    build_cache(recordings, teacher, detached, dataclasses.replace(CONFIG, with_features=False))
    built = attach_features(detached, recordings, tmp_path / "whole.h5")
    assert built.cache_id == cache.metadata["cache_id"]
    renamed = [dataclasses.replace(clip, clip_id=f"{i}", split="test") for i, clip in enumerate(recordings.clips)]
    mine = with_clips(recordings, tmp_path / "mine", renamed)
    assert attach_features(detached, mine, tmp_path / "mine.zarr").cache_id == built.cache_id, "found by their audio"
    samples, rate = soundfile.read(mine.root / renamed[0].speech_file)
    soundfile.write(mine.root / renamed[0].speech_file, 0.9 * samples, rate)
    with pytest.raises(AudioFaults, match=r"1 of 88 clips are not the recordings"):
        attach_features(detached, mine, tmp_path / "other.zarr")


@pytest.mark.parametrize("change", [{"n": "2"}, {"speed_percent": [0]}, {"reverb": 1}, {"seed": None}, {"n": 10**9}])
def test_views_drawn_in_an_unknown_way_are_not_drawn(cache, recordings, teacher, change):
    stated = {**cache.metadata["dataset"]["views"], **change}
    odd = dataclasses.replace(cache, metadata={**cache.metadata, "dataset": {"views": stated}})
    with pytest.raises(TkdError, match=r"views\.zarr: (views|speed_percent)"):
        verify_cache(odd, recordings, teacher)


@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        ("clip_id", lambda rows: {"clip_id": np.array([name.replace("#2", "+2") for name in rows["clip_id"]])}),
        ("split", lambda rows: {"view": np.where(rows["split"] == 2, 1, rows["view"])}),
        ("label", lambda rows: {"label": np.where(rows["view"] == 1, 1 - rows["label"], rows["label"])}),
    ],
)
def test_rows_that_are_no_views_of_a_training_clip_are_refused(cache, tmp_path, place, wrong):
    rows = {name: cache.read(name) for name, spec in cache.specs.items() if spec.written == "creation"}
    metadata = {key: value for key, value in cache.metadata.items() if key not in STATE_KEYS}
    with pytest.raises(CacheError, match=r"view: \d+ of 88 clips.* must be 0, or k > 0 of a row CLIP#k in train"):
        create_cache(tmp_path / "c.zarr", cache.layout, {**rows, **wrong(rows)}, metadata)


def smallest(cache, pool: int = POOL) -> int:
    with pytest.raises(TkdError) as refusal:
        load_splits(cache, memory=1, pool=pool)
    return int(str(refusal.value).partition(" takes ")[2].partition(" bytes")[0].replace(",", ""))


@pytest.mark.parametrize("memory", ["all", "little"])
def test_an_epoch_takes_one_view_of_each_clip_and_in_time_all_of_them(cache, memory):
    split = load_splits(cache, memory=None if memory == "all" else smallest(cache, 3), pool=3)["train"]
    assert split.resident is (memory == "all") and split.n_clips == 24 and len(split) == 72
    seen = set()
    for seed in range(20):
        batches = list(split.shuffled(7, [seed]))
        assert [len(batch) for batch in batches] == [7, 7, 7, 3]
        ids = [str(name) for batch in batches for name in batch.clip_id]
        assert sorted(name.partition("#")[0] for name in ids) == sorted({n.partition("#")[0] for n in split.clip_id})
        seen.update(ids)
    rows = [list(split.clip_id).index(name) for name in ids]
    assert torch.equal(torch.cat([batch.features for batch in batches]), split.take(rows).features)
    assert seen == set(split.clip_id)
    clean = load_splits(cache, views=False)["train"]
    assert {name for batch in clean.shuffled(7, [1]) for name in batch.clip_id} == {n for n in seen if "#" not in n}


def test_every_view_is_as_likely_and_the_choice_does_not_follow_the_order():
    clip_of = torch.arange(300) % 100
    counts = torch.zeros(300)
    for seed in range(600):
        counts += one_view(clip_of, seed)
    assert counts.sum() == 600 * 100
    assert (counts - 200).abs().max() < 5 * math.sqrt(600 * 2 / 9)  # of a binomial distribution, five times its spread
    assert clips_of(np.array(["a", "b"]), np.zeros(2)) is None


def test_an_epoch_that_ends_in_a_pool_without_a_clip_of_its_own_is_whole(cache):
    """A pool of one partition may hold no row that the epoch takes; the batch begun before it still comes."""
    split, n_empty = load_splits(cache, pool=1)["train"], 0
    for seed in range(100):
        *_, last = shuffled(split._pieces, seed, 1, one_view(split._clip_of, seed))
        n_empty += len(last.order) == 0
        assert [len(batch) for batch in split.shuffled(7, [seed])] == [7, 7, 7, 3]
    assert n_empty > 0


def test_students_train_on_views_the_same_whatever_the_memory(cache, tmp_path):
    train(cache, TrainConfig(**SMALL), tmp_path / "views")
    train(cache, TrainConfig(**SMALL), tmp_path / "again", memory=smallest(cache))
    train(cache, TrainConfig(**SMALL, views=False), tmp_path / "clean")
    first, again, clean = (load_file(tmp_path / run / "model.safetensors") for run in ("views", "again", "clean"))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], clean[name]) for name in first)
    assert json.loads((tmp_path / "clean" / "config.json").read_text())["views"] is False
    order = [str(name) for batch in load_splits(cache)["train"].shuffled(8, [3]) for name in batch.clip_id]
    dataset = CacheDataset(cache, "train")
    assert [dataset[row]["clip_id"] for row in dataset.order(3)] == order
