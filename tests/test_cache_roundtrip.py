"""A cache gives back what was put in, to our reader and to anybody's."""

import hashlib
import json
import warnings

import numpy as np
import pytest
import xarray
import zarr
from cache_builder import build, content, metadata, partition, rows, sizes

from cache_schema import CacheError, Layout, create_cache, describe_cache, open_cache, write_partition
from cache_schema.format.schema import ARRAYS, required_arrays


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
@pytest.mark.parametrize("keep", ["rollout", "layers", "heads"])
def test_what_was_written_is_read(tmp_path, task, keep):
    layout = sizes(task=task, keep=keep)
    path, cache_id = build(tmp_path / "kws.zarr", layout)
    cache = open_cache(path)
    assert cache.metadata["cache_id"] == cache_id and cache.metadata["complete"] is True
    assert cache.task == task and cache.labels == metadata(layout)["dataset"]["labels"]
    for name, given in {**rows(layout), **content(layout)}.items():
        read = cache.read(name)
        if name.endswith("_weights"):
            assert read.dtype == np.float32
            np.testing.assert_allclose(np.sqrt(read), np.sqrt(given), atol=0.04)
            np.testing.assert_allclose(read.sum(-1), 1, atol=1e-6)
            beyond = np.broadcast_to(given == 0, read.shape)
            assert (read[beyond] == 0).all() and (read[~beyond] > 0).all()
        elif read.dtype == np.float16:
            np.testing.assert_array_equal(read, given.astype(np.float16))
        else:
            assert read.tolist() == given.tolist()


def test_partitions_and_codes_can_be_read_apart(tmp_path):
    layout = sizes(keep="heads")
    cache = open_cache(build(tmp_path / "kws.zarr", layout)[0])
    whole, codes = cache.read("head_weights"), cache.read("head_weights", [2, 0], decode=False)
    assert codes.dtype == np.uint8
    picked = np.r_[layout.partition_rows(2), layout.partition_rows(0)]
    np.testing.assert_array_equal(cache.decode("head_weights", codes), whole[picked])
    np.testing.assert_array_equal(cache.read("n_frames", [2, 0]), cache.read("n_frames")[picked])


def test_split_rows_partition_the_rows(tmp_path):
    layout = sizes()
    cache = open_cache(build(tmp_path / "kws.zarr", layout)[0])
    together = np.concatenate([cache.split_rows(split) for split in ("train", "validation", "test")])
    assert together.tolist() == list(range(layout.n_clips))
    with pytest.raises(CacheError, match=r"unknown split 'dev'; known: train, validation, test"):
        cache.split_rows("dev")


def test_plain_zarr_and_xarray_read_it_with_named_dimensions_and_without_warnings(tmp_path):
    layout = sizes(keep="heads")
    path, _ = build(tmp_path / "kws.zarr", layout)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = xarray.open_zarr(path, consolidated=False).load()
        group = zarr.open_group(path, mode="r")
        for spec in required_arrays(layout).values():
            assert data[spec.name].dims == spec.dims == group[spec.name].metadata.dimension_names
            assert data[spec.name].attrs["description"] == spec.description
    assert not data.coords
    coding, codes = data["head_weights"].attrs["coding"], data["head_weights"].values
    levels = codes.astype(int).cumsum(-1) % 256
    decoded = np.where(levels == 0, 0, np.expm1(coding["step"] * (levels - 0.5)) ** 2)
    decoded /= decoded.sum(-1, keepdims=True)
    np.testing.assert_allclose(open_cache(path).read("head_weights"), decoded, rtol=1e-5)


def test_digests_can_be_recomputed_from_format_md_alone(tmp_path):
    path, cache_id = build(tmp_path / "kws.zarr", sizes(keep="heads"))
    group = zarr.open_group(path, mode="r")
    compact = {"sort_keys": True, "separators": (",", ":"), "ensure_ascii": False}
    attribute = group.attrs["tkd_cache"]
    partition_digests = []
    for index in range(3):
        part, lines = slice(index * 4, min(index * 4 + 4, 10)), []
        for name in sorted(set(group.array_keys()) - {"partition_digest"}):
            values, coding = group[name][part], group[name].attrs.get("coding")
            dtype = "string" if name in ("clip_id", "audio_sha256") else str(values.dtype)
            header = {"coding": coding, "dtype": dtype, "name": name, "shape": list(values.shape)}
            data = json.dumps(header, **compact).encode() + b"\n"
            if dtype == "string":
                data += b"".join(len(s.encode()).to_bytes(8, "little") + s.encode() for s in values)
            else:
                data += values.tobytes()
            assert hashlib.sha256(data).hexdigest() == group[name].attrs["partition_sha256"][index]
            lines.append(f"{hashlib.sha256(data).hexdigest()}  {name}\n")
        partition_digests.append(hashlib.sha256("".join(lines).encode()).hexdigest())
    assert group["partition_digest"][:].tolist() == partition_digests
    provenance = {key: attribute[key] for key in attribute if key not in ("cache_id", "complete", "software")}
    data = "".join(digest + "\n" for digest in partition_digests) + json.dumps(provenance, **compact)
    assert hashlib.sha256(data.encode()).hexdigest() == attribute["cache_id"] == cache_id


def test_equal_inputs_make_equal_files_in_any_order_of_partitions(tmp_path):
    layout = sizes(keep="layers")
    first, second = build(tmp_path / "a.zarr", layout)[0], build(tmp_path / "b.zarr", layout, order=(2, 0, 1))[0]
    files = sorted(file.relative_to(first) for file in first.rglob("*") if file.is_file())
    assert files == sorted(file.relative_to(second) for file in second.rglob("*") if file.is_file())
    assert len(files) < 60
    for file in files:
        assert (first / file).read_bytes() == (second / file).read_bytes(), file


def test_software_versions_do_not_change_the_cache_id_but_the_teacher_does(tmp_path):
    layout = sizes()
    _, cache_id = build(tmp_path / "a.zarr", layout)
    assert build(tmp_path / "b.zarr", layout, {**metadata(layout), "software": {"torch": "99"}})[1] == cache_id
    teacher = {**metadata(layout)["teacher"], "sha256": "f" * 64}
    assert build(tmp_path / "c.zarr", layout, {**metadata(layout), "teacher": teacher})[1] != cache_id


def test_a_detached_cache_has_no_features(tmp_path):
    layout = sizes(with_features=False)
    cache = open_cache(build(tmp_path / "kws.zarr", layout)[0])
    with pytest.raises(CacheError, match=r"no array 'features'; it has clip_id, split, label"):
        cache.read("features")


def test_large_shards_hold_chunks_of_64_clips():
    layout = sizes(n_clips=1300, partition_size=512)
    grid = required_arrays(layout)["features"].grid(layout)
    assert (grid.shape[0], grid.chunks[0], grid.shards[0]) == (1300, 64, 512)
    assert [layout.partition_rows(index) for index in range(3)] == [slice(0, 512), slice(512, 1024), slice(1024, 1300)]
    with pytest.raises(CacheError, match=r"no partition 3; this layout has partitions 0 to 2"):
        layout.partition_rows(3)


def test_no_array_is_named_like_a_dimension():
    assert not {spec.name for spec in ARRAYS} & {dim for spec in ARRAYS for dim in spec.dims}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_clips": 0}, "n_clips is 0, it must be a positive int"),
        ({"task": "regression"}, "unknown task 'regression'; known: single_label, multi_label"),
        ({"partition_size": 100}, "partition_size 100 is not a multiple of 64"),
    ],
)
def test_impossible_layouts_are_refused(change, message):
    with pytest.raises(CacheError, match=message):
        Layout(**{**vars(sizes()), **change})


def _damage(**arrays):
    return lambda given: {**given, **{name: change(given[name].copy()) for name, change in arrays.items()}}


def _put(value, *index):
    def change(values):
        values[index] = value
        return values

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            _damage(rollout=_put(np.nan, 0, 0)),
            "rollout: 1 of 4 clips, first row 4, 'klip-é-4': found 1, must be finite",
        ),
        (_damage(rollout=lambda weights: weights * 0.9), "rollout: 4 of 4 .* of sum 1"),
        (_damage(rollout=_put(1e-3, 0, -1)), "rollout: 1 of 4 .* exactly 0 beyond n_frames"),
        (_damage(head_weights=_put(-0.1, 2, 1, 1, 0)), "head_weights: 1 of 4 clips, first row 6.* non-negative"),
        (_damage(logits=_put(1e5, 0, 0)), "logits: .* must be finite as float16"),
        (_damage(audio_sha256=_put("", 1)), "audio_sha256: .* 64 lower-case hex digits"),
        (_damage(features=lambda values: values[:, :, 1:]), r"features has shape \(4, 3, 10\), must be \(4, 3, 11\)"),
        (_damage(features=lambda values: values.astype(int)), "features has dtype int64, cannot be stored as float16"),
        (lambda given: {"rolout": 0, **given}, "rolout: not an array of this layout; it has rollout, head_weights"),
        (lambda given: {"logits": given["logits"]}, "audio_sha256: missing. features: missing. head_weights: missing."),
    ],
)
def test_a_partition_that_is_not_of_the_format_is_refused_and_leaves_no_trace(tmp_path, damage, message):
    layout, path = sizes(keep="heads"), tmp_path / "kws.zarr"
    create_cache(path, layout, rows(layout), metadata(layout))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CacheError, match=message):
        write_partition(path, 1, damage(partition(layout, 1)))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_damage(clip_id=_put("klip-é-0", 3)), "clip_id: 1 of 10 clips, first row 3.* unique"),
        (_damage(clip_id=_put(None, 3)), "clip_id cannot be stored as string"),
        (_damage(clip_id=_put("\udc80", 3)), "clip_id cannot be stored as string"),
        (_damage(split=_put(7, 9)), r"split: 1 of 10 .* found 7, must be 0 to 2 \(train, validation, test\)"),
        (_damage(split=_put(2, 0)), "split: 7 of 10 .* in split order"),
        (_damage(label=_put(5, 1)), "label: .* found 5, must be a class index"),
        (_damage(n_frames=_put(0, 0)), "n_frames: .* found 0"),
        (_damage(event_stop=_put(10**6, 0)), "event_start: 1 of 10 .*event_stop <= the clip's samples"),
        (_damage(view=lambda views: views + 256), "view has values that do not fit into uint8"),
    ],
)
def test_rows_that_are_not_of_the_format_are_refused_before_anything_is_written(tmp_path, damage, message):
    layout = sizes()
    given = {**rows(layout), "view": np.zeros(layout.n_clips, np.int64)}
    given["clip_id"] = given["clip_id"].astype(object)
    with pytest.raises(CacheError, match=message):
        create_cache(tmp_path / "kws.zarr", layout, damage(given), metadata(layout))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("teacher", {"n_heads": 9}, "tkd_cache.teacher.n_heads: 9, the layout says 3"),
        ("teacher", {"hop_length": 0}, "teacher.hop_length: 0, it must be a positive whole number"),
        ("dataset", {"labels": ["a", "a", "b", "c"]}, "dataset.labels: 4 names, n_classes is 4; all must differ"),
        ("pooling", {"floor": float("nan")}, "the metadata are not JSON"),
        ("pooling", {"floor": np.float32(1)}, "the metadata are not JSON"),
    ],
)
def test_metadata_that_contradict_the_layout_or_are_not_json_are_refused(tmp_path, section, change, message):
    layout = sizes()
    given = metadata(layout)
    with pytest.raises(CacheError, match=message):
        create_cache(tmp_path / "kws.zarr", layout, rows(layout), {**given, section: {**given[section], **change}})


def test_missing_metadata_are_all_named(tmp_path):
    layout = sizes()
    with pytest.raises(CacheError, match=r"tkd_cache.teacher.sha256: missing.*tkd_cache.dataset: missing; it holds"):
        create_cache(tmp_path / "kws.zarr", layout, rows(layout), {"teacher": {"name": "tiny"}})


def test_describe_says_how_far_and_how_large(tmp_path):
    layout, path = sizes(), tmp_path / "kws.zarr"
    create_cache(path, layout, rows(layout), metadata(layout))
    write_partition(path, 2, partition(layout, 2))
    begun = describe_cache(path)
    assert (begun["complete"], begun["partitions_done"], begun["n_partitions"]) == (False, 1, 3)
    build(path, layout)
    done = describe_cache(path)
    json.dumps(done)
    assert done["complete"] and done["partitions_done"] == 3 and done["cache_id"]
    assert done["seconds"] == rows(layout)["n_frames"].sum() * 320 / 16000
    assert done["splits"] == {"train": 6, "validation": 2, "test": 2}
    size = sum(file.stat().st_size for file in (path / "rollout").rglob("*") if file.is_file())
    assert done["arrays"]["rollout"]["bytes"] == size
    assert done["arrays"]["rollout"]["bytes_per_second"] == round(size / done["seconds"], 2)
