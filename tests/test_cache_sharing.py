"""Parts become a whole that nothing tells from one built in one go; and two caches are told apart in words."""

import numpy as np
import pytest
from cache_builder import build, metadata, partition, rows, sizes

from cache_schema import CacheError, create_cache, diff_caches, merge_caches, open_cache, write_partition

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
    with pytest.raises(CacheError, match=r"none.zarr: no unfinished cache there. Merge takes what"):
        merge_caches([tmp_path / "none.zarr"], tmp_path / "whole.zarr")
    whole, _ = build(tmp_path / "one.zarr", LAYOUT)
    with pytest.raises(CacheError, match=r"one.zarr: a finished cache. Merge takes what"):
        merge_caches([whole], tmp_path / "whole.zarr")


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
