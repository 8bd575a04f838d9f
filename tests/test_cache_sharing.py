"""Parts become a whole that nothing tells from one built in one go; and two caches are told apart in words."""

import json
import os
import shutil

import numpy as np
import pytest
import zarr
from cache_builder import build, metadata, partition, rows, sizes

from cache_schema import (
    CacheError,
    create_cache,
    diff_caches,
    finalise,
    merge_caches,
    open_cache,
    pending_partitions,
    write_partition,
)
from cache_schema.format.digest import array_digest, cache_id, partition_digest
from cache_schema.lock import hold, only_one

LAYOUT = sizes(keep="heads")


def part(path, *indices, given=None, layout=LAYOUT, changed=None):
    create_cache(path, layout, {**rows(layout), **(changed or {})}, given or metadata(layout))
    for index in indices:
        write_partition(path, index, partition(layout, index))
    return path


def said(a, b):
    return [str(difference) for difference in diff_caches(a, b)]


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_parts_of_several_machines_merge_to_what_one_would_have_built(tmp_path, suffix):
    parts = [part(tmp_path / "a.zarr", 1), part(tmp_path / "b.zarr", 0, 1), part(tmp_path / "c.zarr", 2)]
    identity = merge_caches([*parts[:2], f"{parts[2]}.partial"], tmp_path / f"whole{suffix}")
    whole, one = tmp_path / f"whole{suffix}", build(tmp_path / f"one{suffix}", LAYOUT)[0]
    assert open_cache(one).metadata["cache_id"] == identity
    if suffix == ".h5":
        assert whole.read_bytes() == one.read_bytes()
    else:
        for file in one.rglob("*"):
            assert file.is_dir() or file.read_bytes() == (whole / file.relative_to(one)).read_bytes()


def test_merging_goes_on_when_the_missing_parts_are_there(tmp_path):
    parts = [part(tmp_path / "a.zarr", 1), part(tmp_path / "b.zarr", 0)]
    with pytest.raises(CacheError, match=r"whole.zarr: 1 of 3 partitions are in none of the parts: 2. Build them"):
        merge_caches(parts, tmp_path / "whole.zarr")
    assert not (tmp_path / "whole.zarr").exists()
    done = []
    merge_caches([part(tmp_path / "c.zarr", 2)], tmp_path / "whole.zarr", on_partition=done.append)
    assert done == [2]


def test_a_part_may_be_the_whole(tmp_path):
    parts = [part(tmp_path / "a.zarr", 0, 1), part(tmp_path / "b.zarr", 2)]
    assert merge_caches(parts, parts[0]) == build(tmp_path / "one.zarr", LAYOUT)[1]


@pytest.mark.parametrize("lock", ["0-of-2.lock", "00002.lock", None])
def test_merging_into_what_a_job_is_writing_is_refused_and_touches_nothing(tmp_path, lock):
    parts = [part(tmp_path / "a.zarr", 0, 1), part(tmp_path / "b.zarr", 2)]
    locks = tmp_path / "a.zarr.partial" / "partitions"
    held = only_one(parts[0]) if lock is None else hold(locks / lock, "the job")
    with held, pytest.raises(CacheError, match=rf"a.zarr.*: being written by pid {os.getpid()} on"):
        merge_caches(parts, parts[0])
    assert pending_partitions(parts[0]) == [2]
    merge_caches(parts, parts[0])


@pytest.mark.parametrize("first", [0, 1])
def test_parts_made_by_other_versions_merge_in_any_order(tmp_path, first):
    other = {**metadata(LAYOUT), "software": {"torch": "9.9"}}
    parts = [part(tmp_path / "a.zarr", 0, 1), part(tmp_path / "b.zarr", 2, given=other)]
    merge_caches([parts[first], parts[1 - first]], parts[0])
    assert open_cache(parts[0]).metadata["software"] == metadata(LAYOUT)["software"]


def test_a_part_whose_finalise_was_cut_off_before_the_rename_is_merged(tmp_path):
    sealed = tmp_path / "a.zarr.partial"
    build(tmp_path / "a.zarr", LAYOUT)[0].rename(sealed)
    with pytest.raises(CacheError, match=r"not finished yet, all 3 partitions are done; running .* again finishes it"):
        open_cache(tmp_path / "a.zarr")
    identity = merge_caches([part(tmp_path / "b.zarr", 1), tmp_path / "a.zarr"], tmp_path / "whole.zarr")
    assert merge_caches([tmp_path / "b.zarr", sealed], tmp_path / "a.zarr") == identity


def test_parts_that_do_not_belong_together_are_refused(tmp_path):
    first = part(tmp_path / "a.zarr", 0)
    given = metadata(LAYOUT)
    given["teacher"]["sha256"] = "c" * 64
    other = part(tmp_path / "b.zarr", 1, given=given)
    with pytest.raises(CacheError, match=r"b.zarr.partial: begun with another teacher than .*a.zarr.partial"):
        merge_caches([first, other], tmp_path / "whole.zarr")
    other = part(tmp_path / "c.zarr", 1, changed={"label": rows(LAYOUT)["label"][::-1]})
    with pytest.raises(CacheError, match=r"c.zarr.partial: begun with another label than"):
        merge_caches([first, other], tmp_path / "whole.zarr")
    assert [entry.name for entry in tmp_path.glob("whole*")] == []


def test_a_damaged_part_is_named(tmp_path):
    first, second = part(tmp_path / "a.zarr", 0, 1), part(tmp_path / "b.zarr", 2)
    shard = tmp_path / "b.zarr.partial" / "rollout" / "c" / "2" / "0"
    shard.unlink()
    with pytest.raises(CacheError, match=r"b.zarr.partial: rollout, partition 2 .*altered .*Copy that part again"):
        merge_caches([first, second], tmp_path / "whole.zarr")
    shard.write_bytes(b"torn")
    with pytest.raises(
        CacheError, match=r"b.zarr.partial: rollout, partition 2 .*cannot be read .*Copy that part again"
    ):
        merge_caches([first, second], tmp_path / "whole.zarr")
    with pytest.raises(CacheError, match=r"none.zarr: no unfinished cache there. Merge takes what"):
        merge_caches([tmp_path / "none.zarr"], tmp_path / "whole.zarr")
    whole, _ = build(tmp_path / "one.zarr", LAYOUT)
    with pytest.raises(CacheError, match=r"one.zarr: a finished cache. Merge takes what"):
        merge_caches([whole], tmp_path / "whole.zarr")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff", b'{"rollout": 1}'])
def test_a_damaged_record_is_named(tmp_path, content):
    parts = [part(tmp_path / "a.zarr", 0, 1), part(tmp_path / "b.zarr", 2)]
    record = tmp_path / "b.zarr.partial" / "partitions" / "00002.json"
    whole = record.read_bytes()
    record.write_bytes(content)
    with pytest.raises(
        CacheError, match=r"b.zarr.partial/partitions/00002.json: damaged .* Remove it and run the same"
    ):
        merge_caches(parts, tmp_path / "whole.zarr")
    record.write_bytes(whole)
    merge_caches(parts, tmp_path / "whole.zarr")
    for index in (0, 1):
        write_partition(parts[1], index, partition(LAYOUT, index))
    record.write_bytes(content)
    with pytest.raises(CacheError, match=r"b.zarr.partial/partitions/00002.json: damaged"):
        finalise(parts[1])


def test_files_that_are_no_records_are_let_be(tmp_path):
    path = part(tmp_path / "a.zarr", 0, 1, 2)
    for name in ("notes.json", "-1.json", "0.json", "00002 (copy).json"):
        (tmp_path / "a.zarr.partial" / "partitions" / name).write_text("{}")
    assert pending_partitions(path) == []
    assert merge_caches([path], path) == build(tmp_path / "one.zarr", LAYOUT)[1]


def test_caches_that_are_the_same_do_not_differ(tmp_path):
    assert said(build(tmp_path / "a.zarr", LAYOUT)[0], build(tmp_path / "b.h5", LAYOUT)[0]) == []


def test_what_differs_is_said_in_words(tmp_path):
    given = metadata(LAYOUT)
    given["teacher"]["name"], given["features"]["f_min"], given["pooling"]["floor"] = "other", 30.0, None
    given["software"]["torch"] = "9.9"
    first, second = build(tmp_path / "a.zarr", LAYOUT)[0], build(tmp_path / "b.zarr", LAYOUT, given)[0]
    assert said(first, second) == [
        "teacher: name is 'tiny/maître' in the first, 'other' in the second",
        "front end: f_min is 20.0 in the first, 30.0 in the second",
        "pooling: floor is 1e-08 in the first, nothing in the second",
        "software (not part of the cache_id): torch is nothing in the first, '9.9' in the second",
    ]


def test_rows_and_content_that_differ_are_named_by_clip(tmp_path):
    first, _ = build(tmp_path / "a.zarr", LAYOUT)
    changed = rows(LAYOUT)
    ids = changed["clip_id"].tolist()
    changed["clip_id"] = np.array(["neu", *ids[1:]])
    changed["label"] = changed["label"].copy()
    changed["label"][3] = (changed["label"][3] + 1) % LAYOUT.n_classes
    create_cache(tmp_path / "b.zarr", LAYOUT, changed, metadata(LAYOUT))
    for index in range(3):
        arrays = partition(LAYOUT, index)
        if index == 1:
            arrays["logits"][2, 0] += 1
        write_partition(tmp_path / "b.zarr", index, arrays)
    unfinished = said(first, tmp_path / "b.zarr")
    assert "clips: 1 of 10 are in the first alone: klip-é-0" in unfinished
    merge_caches([tmp_path / "b.zarr"], tmp_path / "b.zarr")
    assert said(first, tmp_path / "b.zarr") == [
        "clips: 1 of 10 are in the first alone: klip-é-0",
        "clips: 1 of 10 are in the second alone: neu",
        "label: differs in 1 of 9 clips: klip-é-3",
        "logits: differs in 1 of 9 clips: klip-é-6; by up to 1",
    ]


def test_sizes_and_arrays_that_differ_are_named(tmp_path):
    first, _ = build(tmp_path / "a.zarr", LAYOUT)
    second, _ = build(tmp_path / "b.zarr", sizes(keep="rollout", with_features=False))
    assert said(first, second) == [
        "layout: keep is 'heads' in the first, 'rollout' in the second",
        "layout: with_features is True in the first, False in the second",
        "head_weights: in the first alone",
        "features: in the first alone",
    ]


def changed_at(path, index, layout=LAYOUT, order=None):
    """A finished cache whose logits differ in the first clip of one partition."""
    create_cache(path, layout, rows(layout), metadata(layout))
    for each in range(layout.n_partitions):
        arrays = partition(layout, each)
        if each == index:
            arrays["logits"][0, 0] += 1
        write_partition(path, each, arrays)
    finalise(path)
    return path


def test_content_of_equal_digests_is_not_read(tmp_path):
    first, second = build(tmp_path / "a.zarr", LAYOUT)[0], changed_at(tmp_path / "b.zarr", 1)
    for path in (first, second):
        shutil.rmtree(path / "features" / "c")
        (path / "logits" / "c" / "0" / "0").unlink()
    assert said(first, second) == ["logits: differs in 1 of 10 clips: klip-é-4; by up to 1"]


@pytest.mark.parametrize("size", [1, 3, 5, 64])
def test_clips_are_compared_across_partitions_of_another_size(tmp_path, size):
    first, other = changed_at(tmp_path / "a.zarr", 1), sizes(keep="heads", partition_size=size)
    assert said(first, build(tmp_path / "b.zarr", other)[0]) == [
        f"layout: partition_size is 4 in the first, {size} in the second",
        "logits: differs in 1 of 10 clips: klip-é-4; by up to 1",
    ]


def test_clips_are_compared_in_another_order(tmp_path):
    first = changed_at(tmp_path / "a.zarr", 1)
    n_train = (rows(LAYOUT)["split"] == 0).sum()
    order = np.r_[:n_train][::-1], np.r_[n_train : LAYOUT.n_clips]
    order = np.concatenate(order)
    create_cache(
        tmp_path / "b.zarr", LAYOUT, {name: values[order] for name, values in rows(LAYOUT).items()}, metadata(LAYOUT)
    )
    whole = [partition(LAYOUT, index) for index in range(3)]
    for index in range(3):
        arrays = {name: np.concatenate([each[name] for each in whole])[order] for name in whole[0]}
        part_rows = LAYOUT.partition_rows(index)
        write_partition(tmp_path / "b.zarr", index, {name: values[part_rows] for name, values in arrays.items()})
    finalise(tmp_path / "b.zarr")
    assert said(first, tmp_path / "b.zarr") == [
        "clips: in another order",
        "logits: differs in 1 of 10 clips: klip-é-4; by up to 1",
    ]


def test_damaged_content_is_no_difference_but_an_error(tmp_path):
    first, second = build(tmp_path / "a.zarr", LAYOUT)[0], changed_at(tmp_path / "b.zarr", 1)
    (second / "logits" / "c" / "1" / "0").unlink()
    with pytest.raises(CacheError, match=r"b.zarr: logits, partition 1 \(clips 4 to 7\): missing or altered"):
        diff_caches(first, second)


def test_what_does_not_say_whether_it_is_complete_is_compared_as_unfinished(tmp_path):
    first, second = build(tmp_path / "a.zarr", LAYOUT)[0], part(tmp_path / "b.zarr")
    file = tmp_path / "b.zarr.partial" / "zarr.json"
    root = json.loads(file.read_bytes())
    del root["attributes"]["tkd_cache"]["complete"]
    file.write_text(json.dumps(root))
    assert said(first, second) == ["complete: True in the first, nothing in the second"]
    assert pending_partitions(second) == [0, 1, 2]


def test_values_that_are_no_numbers_are_equal_to_themselves(tmp_path):
    """As a cache of another writer may hold them, with the right digests."""
    paths = []
    for by in (0, 2):
        paths.append(build(tmp_path / f"{by}.zarr", LAYOUT)[0])
        group = zarr.open_group(paths[-1], mode="r+")
        logits = group["logits"][:]
        logits[1, 1], logits[2, 0] = np.nan, by
        group["logits"][:] = logits
        digests = [array_digest("logits", logits[LAYOUT.partition_rows(index)]) for index in range(3)]
        group["logits"].attrs["partition_sha256"] = digests
        arrays = {name: array.attrs.get("partition_sha256") for name, array in group.arrays()}
        del arrays["partition_digest"]
        partitions = [partition_digest({name: found[index] for name, found in arrays.items()}) for index in range(3)]
        group["partition_digest"][:] = np.array(partitions, np.dtypes.StringDType())
        attribute = group.attrs["tkd_cache"]
        group.attrs["tkd_cache"] = {**attribute, "cache_id": cache_id(partitions, attribute)}
    assert said(*paths) == ["logits: differs in 1 of 10 clips: klip-é-2; by up to 2"]
