"""A damaged, foreign or unfinished cache is never taken for a whole one, and the message says what to do."""

import json
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from cache_builder import build, metadata, partition, rows, sizes

from cache_schema import CacheError, create_cache, finalise, open_cache, validate_cache, write_partition
from cache_schema.format.schema import required_arrays

LAYOUT = sizes(keep="heads")
ARRAYS = [name for name, spec in required_arrays(LAYOUT).items() if spec.written != "finalise"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return build(tmp_path_factory.mktemp("whole") / "kws.zarr", LAYOUT)[0]


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A cache of the same clips, of another teacher and other labels."""
    path = tmp_path_factory.mktemp("other") / "other.zarr"
    clips = rows(LAYOUT)
    clips["label"] = (clips["label"] + 1) % LAYOUT.n_classes
    create_cache(path, LAYOUT, clips, metadata(LAYOUT))
    for index in range(LAYOUT.n_partitions):
        arrays = partition(LAYOUT, index)
        arrays["logits"] = arrays["logits"] + 1
        write_partition(path, index, arrays)
    finalise(path)
    return path


@pytest.fixture
def cache(whole, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(whole, tmp_path / "kws.zarr")


def payload(path):
    return sorted(file for file in path.rglob("*") if file.is_file() and file.name != "zarr.json")


def read_everything(path):
    opened = open_cache(path)
    for name in ARRAYS:
        opened.read(name)


def test_one_flipped_bit_in_any_payload_file_is_detected_and_located(cache):
    rng = np.random.default_rng(0)
    files = payload(cache)
    assert len(files) > 20
    for file in files:
        content = file.read_bytes()
        for position in {0, len(content) - 1, *rng.integers(0, len(content), 3).tolist()}:
            damaged = bytearray(content)
            damaged[position] ^= 1 << int(rng.integers(8))
            file.write_bytes(damaged)
            name = file.relative_to(cache).parts[0]
            with pytest.raises(CacheError, match=rf"kws.zarr: {name}.*Fetch the cache again, or rebuild it"):
                read_everything(cache)
        assert any(problem.place.startswith(name) for problem in validate_cache(cache))
        file.write_bytes(content)
    read_everything(cache)
    assert validate_cache(cache) == []


def test_every_truncated_emptied_or_deleted_payload_file_is_detected(cache):
    """An emptied or deleted shard is read by zarr as the fill value, without a word."""
    for file in payload(cache):
        content = file.read_bytes()
        for rest in (content[:-1], content[: len(content) // 2], b"", None):
            file.unlink() if rest is None else file.write_bytes(rest)
            with pytest.raises(
                CacheError, match=rf"kws.zarr: {file.relative_to(cache).parts[0]}.*Fetch the cache again"
            ):
                read_everything(cache)
            file.write_bytes(content)


def test_a_deleted_shard_is_named_with_its_array_partition_and_clips(cache):
    shutil.rmtree(cache / "rollout" / "c" / "1")
    with pytest.raises(CacheError) as error:
        open_cache(cache).read("rollout")
    assert str(error.value) == (
        f"{cache}: rollout, partition 1 (clips 4 to 7): missing or altered (wrong digest). Fetch the cache again, "
        "or rebuild it with tkd cache build --force; tkd cache validate lists every fault."
    )
    assert len(open_cache(cache).read("rollout", [0, 2])) == 6


def test_shards_that_changed_places_are_detected(cache):
    first, second = cache / "features" / "c" / "0", cache / "features" / "c" / "1"
    first.rename(cache / "aside")
    second.rename(first)
    (cache / "aside").rename(second)
    with pytest.raises(CacheError, match=r"features, partition 0"):
        open_cache(cache).read("features")


@pytest.mark.parametrize(
    "change",
    [
        lambda attribute: attribute["teacher"].update(sha256="f" * 64),
        lambda attribute: attribute["dataset"]["labels"].reverse(),
        lambda attribute: attribute["pooling"].clear(),
        lambda attribute: attribute.update(cache_id="0" * 64),
    ],
)
def test_altered_provenance_is_detected_on_opening(cache, change):
    rewrite(cache / "zarr.json", lambda document: change(document["attributes"]["tkd_cache"]))
    with pytest.raises(CacheError, match=r"tkd_cache.cache_id: not the digest of the provenance and the partitions"):
        open_cache(cache)


@pytest.mark.parametrize("name", ["logits", "label"])
def test_a_whole_array_of_another_cache_is_detected(cache, other, name):
    """It agrees with its own digests, so that the chain from these to the cache_id alone can tell."""
    shutil.rmtree(cache / name)
    shutil.copytree(other / name, cache / name)
    with pytest.raises(CacheError, match=r"partition_digest, partition 0 .*: not the digest of its arrays' digests"):
        open_cache(cache)
    assert any(problem.place.startswith("partition_digest") for problem in validate_cache(cache))


def test_what_others_may_have_added_to_the_root_is_a_fault_and_not_believed(cache):
    zarr.consolidate_metadata(cache)
    zarr.open_group(cache, mode="r+").attrs["note"] = "mine"
    assert {problem.place for problem in validate_cache(cache)} == {"note", "consolidated_metadata"}
    file = cache / "rollout" / "zarr.json"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(CacheError, match="rollout: its metadata are damaged"):
        open_cache(cache)


def test_a_cache_that_was_replaced_since_it_was_opened_is_not_read_in_its_place(cache, other):
    opened = pickle.dumps(open_cache(cache))
    assert pickle.loads(opened).metadata["cache_id"] == open_cache(cache).metadata["cache_id"]
    shutil.rmtree(cache)
    shutil.copytree(other, cache)
    with pytest.raises(CacheError, match=r"another cache than a moment ago .cache_id"):
        pickle.loads(opened)


@pytest.mark.parametrize("suffix", [".h5", ".zip"])
def test_a_file_damaged_at_random_is_read_as_it_was_or_refused(suffix):
    """A hundred flipped bits, cuts and zeros, in processes of their own: a library may crash."""
    attack = Path(__file__).with_name("attack.py")
    done = subprocess.run([sys.executable, attack, suffix, "--trials", "100"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"detected \d\d", done.stdout)


def test_altered_coding_parameters_are_detected(cache):
    rewrite(cache / "head_weights" / "zarr.json", lambda document: document["attributes"]["coding"].update(step=0.05))
    with pytest.raises(CacheError, match=r"head_weights, partition 0 .*wrong digest"):
        open_cache(cache).read("head_weights")


def test_a_missing_array_is_named_on_opening(cache):
    shutil.rmtree(cache / "logits")
    with pytest.raises(CacheError, match=r"kws.zarr: logits: missing"):
        open_cache(cache)


def rewrite(file, change):
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


def test_validate_lists_every_planted_fault_with_its_place(cache):
    group = zarr.open_group(cache, mode="r+")
    put = {
        "clip_id": [("klip-é-0", 3)],
        "split": [(9, 9)],
        "label": [(77, 1)],
        "n_frames": [(0, 9)],
        "event_stop": [(10**9, 0)],
        "rollout": [(np.nan, 4, 0), (0.7, 8, 0)],
        "head_weights": [(0, 2, 1, 2, 0)],
        "features": [(np.inf, 0, 0, 0)],
        "audio_sha256": [("no digest", 5)],
    }
    for name, values in put.items():
        for value, *index in values:
            group[name][tuple(index)] = value
    shutil.rmtree(cache / "logits")
    (cache / "view" / "zarr.json").write_text("{")
    group.create_array("surplus", shape=(1,), dtype="uint8")
    rewrite(cache / "n_feature_frames" / "zarr.json", lambda document: document.update(dimension_names=["sample"]))
    rewrite(cache / "zarr.json", lambda document: document["attributes"]["tkd_cache"]["teacher"].pop("score"))
    found = "\n".join(map(str, validate_cache(cache)))
    for expected in (
        "tkd_cache.teacher.score: missing.",
        "tkd_cache.cache_id: not the digest",
        "logits: missing.",
        "view: its metadata are damaged",
        "surplus: not an array of this layout",
        "n_feature_frames: dims is ('sample',), must be ('clip',).",
        "clip_id: 1 of 10 clips, first row 3, 'klip-é-0': found klip-é-0, must be unique",
        "split: 1 of 10 clips, first row 9, 'klip-é-9': found 9, must be 0 to 2",
        "label: 1 of 10 clips, first row 1, 'klip-é-1': found 77, must be a class index",
        "n_frames: 1 of 10 clips, first row 9, 'klip-é-9': found 0, must be 1",
        "event_start: 1 of 10 clips, first row 0",
        "rollout: 1 of 4 clips, first row 4, 'klip-é-4': found 1, must be finite",
        "rollout: 2 of 2 clips, first row 8, 'klip-é-8': found 1.69",  # row 9 has no valid frame left
        "head_weights: 1 of 4 clips, first row 2",
        "features: 1 of 4 clips, first row 0",
        "audio_sha256: 1 of 4 clips, first row 5, 'klip-é-5': found no digest, must be 64",
        *(f"{name}, partition {index} (clips" for name, index in (("rollout", 1), ("rollout", 2), ("clip_id", 0))),
    ):
        assert expected in found
    assert "event_stop, partition 0 (clips 0 to 3): missing or altered (wrong digest)." in found


def test_what_an_array_holds_is_said_in_any_words(cache):
    def describe(document, text):
        document["attributes"]["description"] = text

    rewrite(cache / "rollout" / "zarr.json", lambda document: describe(document, "wohin der Lehrer hört"))
    assert validate_cache(cache) == []
    rewrite(cache / "rollout" / "zarr.json", lambda document: describe(document, ""))
    assert [problem.place for problem in validate_cache(cache)] == ["rollout"]


def test_a_newer_version_is_refused_with_the_way_on(cache):
    rewrite(cache / "zarr.json", lambda document: document["attributes"]["tkd_cache"].update(format_version=2))
    for look in (open_cache, validate_cache):
        with pytest.raises(CacheError) as error:
            look(cache)
        assert str(error.value) == (
            f"{cache}: format version 2, this tkd reads version 1. "
            "Update tkd, or ask whoever made the cache for one of version 1."
        )


def test_a_wrong_path_names_the_nearest_caches(cache):
    with pytest.raises(CacheError, match=r"kwz.zarr: not found in .*\. Did you mean kws.zarr\?"):
        open_cache(cache.with_name("kwz.zarr"))
    with pytest.raises(CacheError, match=r"there is no folder .*nowhere"):
        open_cache(cache.parent / "nowhere" / "kws.zarr")
    (cache.parent / "empty").mkdir()
    with pytest.raises(CacheError, match=r"There is no cache; make one with tkd cache build"):
        open_cache(cache.parent / "empty" / "kws.zarr")


def test_something_else_at_the_path_is_named(tmp_path):
    (tmp_path / "file").write_text("hello")
    (tmp_path / "folder").mkdir()
    zarr.create_group(tmp_path / "foreign.zarr")
    for name, message in (
        ("file", "file: a file, but no cache: neither HDF5 nor a .zip"),
        ("folder", "folder: no cache, or a damaged one"),
        ("foreign.zarr", "foreign.zarr: readable, but no cache .it has no attribute 'tkd_cache'"),
    ):
        with pytest.raises(CacheError, match=message):
            open_cache(tmp_path / name)


def test_an_unfinished_cache_is_refused_and_says_how_to_go_on(tmp_path):
    path = tmp_path / "kws.zarr"
    create_cache(path, LAYOUT, rows(LAYOUT), metadata(LAYOUT))
    write_partition(path, 1, partition(LAYOUT, 1))
    with pytest.raises(CacheError) as error:
        open_cache(path)
    assert str(error.value) == (
        f"{path}: not finished yet, 1 of 3 partitions are done; "
        "running the same tkd cache build again continues where it stopped."
    )
    with pytest.raises(CacheError, match=r"kws.zarr.partial: unfinished, 1 of 3 partitions are done"):
        open_cache(f"{path}.partial")
    assert any(problem.place == "tkd_cache.complete" for problem in validate_cache(f"{path}.partial"))


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("teacher", "n_layers", 7),
        ("teacher", "hop_length", 0),
        ("teacher", "frame_offset", -1),
        ("dataset", "task", "multi_label"),
        ("dataset", "labels", ["one"]),
    ],
)
def test_validate_names_the_key_of_metadata_that_cannot_be(cache, section, key, value):
    rewrite(cache / "zarr.json", lambda document: document["attributes"]["tkd_cache"][section].update({key: value}))
    assert f"tkd_cache.{section}.{key}" in [problem.place for problem in validate_cache(cache)]
