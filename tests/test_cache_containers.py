"""One cache, three containers: what one holds, all hold, down to the digests."""

import json
import multiprocessing
import pickle
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray
import zarr
from cache_builder import build, sizes

from cache_schema import CacheError, convert_cache, describe_cache, open_cache, validate_cache
from cache_schema.lock import only_one

LAYOUT = sizes(keep="heads")
SUFFIXES = (".zarr", ".h5", ".zip")


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """The same cache in each container, by suffix; .h5 from .zarr, .zip from .h5."""
    folder = tmp_path_factory.mktemp("kopien-é")
    built, _ = build(folder / "kws.zarr", LAYOUT)
    convert_cache(built, folder / "kws.h5")
    convert_cache(folder / "kws.h5", folder / "kws.zip")
    return {suffix: folder / f"kws{suffix}" for suffix in SUFFIXES}


def files_of(folder):
    return {entry.relative_to(folder): entry.read_bytes() for entry in folder.rglob("*") if entry.is_file()}


def contents(path, decode=False):
    cache = open_cache(path)
    return {name: cache.read(name, decode=decode) for name in cache.specs}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_container_holds_the_same_content_digests_and_id(copies, suffix):
    expected, found = contents(copies[".zarr"]), contents(copies[suffix])
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        assert values.dtype == found[name].dtype
        assert values.tobytes() == found[name].tobytes() or values.tolist() == found[name].tolist()
    assert open_cache(copies[suffix]).metadata == open_cache(copies[".zarr"]).metadata
    assert validate_cache(copies[suffix]) == []


def test_a_way_around_all_containers_ends_with_the_same_bytes(copies, tmp_path):
    convert_cache(copies[".zip"], tmp_path / "back.zarr")
    assert files_of(tmp_path / "back.zarr") == files_of(copies[".zarr"])
    convert_cache(tmp_path / "back.zarr", tmp_path / "again.h5")
    assert (tmp_path / "again.h5").read_bytes() == copies[".h5"].read_bytes()
    convert_cache(tmp_path / "again.h5", tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == copies[".zip"].read_bytes()


@pytest.mark.parametrize("suffix", [".zarr", ".zip", ".h5"])
def test_any_container_opens_without_tkd_with_named_dimensions_and_decodes_as_it_says(copies, suffix):
    path, cache = copies[suffix], open_cache(copies[suffix])
    if suffix == ".h5":
        file = h5py.File(path)
        dims = {name: tuple(dim.label for dim in file[name].dims) for name in file}
        ids = file["clip_id"].asstr()[:].tolist()
        tkd = json.loads(file.attrs["tkd_cache"])
    else:
        group = zarr.open_group(zarr.storage.ZipStore(path, mode="r") if suffix == ".zip" else path, mode="r")
        data = xarray.open_zarr(group.store, consolidated=False)
        dims = {name: data[name].dims for name in data.variables}
        ids = data["clip_id"].values.tolist()
        tkd = data.attrs["tkd_cache"]
    assert dims == {name: spec.dims for name, spec in cache.specs.items()}
    assert ids == cache.read("clip_id").tolist()
    assert tkd == cache.metadata


def test_a_build_may_name_hdf5(copies, tmp_path):
    path, identity = build(tmp_path / "kws.h5", LAYOUT)
    assert path.read_bytes() == copies[".h5"].read_bytes()
    assert identity == open_cache(copies[".zarr"]).metadata["cache_id"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["kws.h5"]


def test_a_copy_may_leave_out_features_and_heads_and_equals_one_built_without(copies, tmp_path):
    convert_cache(copies[".zarr"], tmp_path / "small.h5", keep="rollout", with_features=False)
    _, identity = build(tmp_path / "built.zarr", sizes(keep="rollout", with_features=False))
    assert open_cache(tmp_path / "small.h5").metadata["cache_id"] == identity
    with pytest.raises(CacheError, match="it keeps rollout; heads cannot be made of that"):
        convert_cache(tmp_path / "small.h5", tmp_path / "more.zarr", keep="heads")


def test_layers_of_a_copy_are_the_means_of_the_heads(copies, tmp_path):
    convert_cache(copies[".zarr"], tmp_path / "layers.zarr", keep="layers")
    assert validate_cache(tmp_path / "layers.zarr") == []
    found = open_cache(tmp_path / "layers.zarr").read("layer_weights")
    means = open_cache(copies[".zarr"]).read("head_weights").mean(axis=2)
    np.testing.assert_allclose(np.sqrt(found), np.sqrt(means), atol=0.04)  # coded once more, in steps even in the root


def test_a_copy_neither_replaces_unasked_nor_is_left_half_made(copies, tmp_path):
    target = tmp_path / "kws.h5"
    target.write_text("a thesis")
    with pytest.raises(CacheError, match=r"kws.h5: already there; --force replaces it"):
        convert_cache(copies[".zarr"], target)
    with pytest.raises(CacheError, match=r"kws.h5: a file, but no cache"):
        convert_cache(copies[".zarr"], target, force=True)
    with pytest.raises(CacheError, match=r"the name of a cache ends in .zarr, .h5, .zip"):
        convert_cache(copies[".zarr"], tmp_path / "kws.hdf")

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_cache(copies[".zarr"], tmp_path / "new.zip", on_partition=stop)
    assert [entry.name for entry in tmp_path.iterdir() if not entry.name.endswith(".lock")] == ["kws.h5"]


def test_a_damaged_cache_is_replaced_by_force(copies, tmp_path):
    target, shard = tmp_path / "kws.zarr", tmp_path / "kws.zarr" / "rollout" / "c" / "0" / "0"
    convert_cache(copies[".zarr"], target)
    (target / "rollout" / "zarr.json").unlink()
    shard.write_bytes(b"torn")
    convert_cache(copies[".zarr"], target, force=True)
    assert validate_cache(target) == []


def test_no_two_copies_are_made_under_one_name(copies, tmp_path):
    with only_one(tmp_path / "new.h5"), pytest.raises(CacheError, match=r"new.h5: being written by pid \d+ on"):
        convert_cache(copies[".zarr"], tmp_path / "new.h5")


def test_a_url_is_no_place_to_write_a_copy(copies, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for url in ("s3://team/kws.zarr", Path("s3://team/kws.zarr")):
        with pytest.raises(CacheError, match=r"a URL; tkd cache push copies a cache there. Give a path"):
            convert_cache(copies[".zarr"], url)
    assert list(tmp_path.iterdir()) == []


def _read_in_child(cache, queue):
    queue.put({name: cache.read(name).tobytes() for name in ("rollout", "features")})


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_open_cache_is_read_in_other_processes(copies, suffix, method):
    cache, context = open_cache(copies[suffix]), multiprocessing.get_context(method)
    queue = context.Queue()
    children = [context.Process(target=_read_in_child, args=(cache, queue)) for _ in range(2)]
    for child in children:
        child.start()
    found = [queue.get(timeout=60) for _ in children]
    for child in children:
        child.join()
    assert found == [{name: cache.read(name).tobytes() for name in ("rollout", "features")}] * 2
    assert pickle.loads(pickle.dumps(cache)).metadata == cache.metadata


def test_every_container_is_described(copies):
    described = [describe_cache(copies[suffix]) for suffix in SUFFIXES]
    for one, suffix in zip(described, SUFFIXES, strict=True):
        assert one["cache_id"] == described[0]["cache_id"]
        assert one["files"] == (1 if suffix != ".zarr" else described[0]["files"])
        assert all(array["bytes"] > 0 for array in one["arrays"].values())


@pytest.mark.parametrize(
    ("fault", "entry"),
    [
        ("has a name that leaves the folder", zipfile.ZipInfo("../outside")),
        ("has a name that leaves the folder", zipfile.ZipInfo("/etc/passwd")),
        ("has a name that leaves the folder", zipfile.ZipInfo("a\\..\\b")),
        ("is no plain file", zipfile.ZipInfo("folder/")),
        ("is there twice", zipfile.ZipInfo("zarr.json")),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_that_could_do_harm_is_refused(copies, tmp_path, fault, entry):
    path = tmp_path / "kws.zip"
    path.write_bytes(copies[".zip"].read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(entry, b"")
    with pytest.raises(CacheError, match=fault):
        open_cache(path)


def test_links_and_compressed_entries_are_refused(copies, tmp_path):
    for name, change in (("link.zip", {"link": True}), ("bomb.zip", {"bomb": True})):
        path = tmp_path / name
        path.write_bytes(copies[".zip"].read_bytes())
        with zipfile.ZipFile(path, "a") as archive:
            entry = zipfile.ZipInfo("extra")
            if "link" in change:
                entry.external_attr = 0o120777 << 16
                archive.writestr(entry, b"/etc/passwd")
            else:
                archive.writestr(entry, b"\0" * 10**7, zipfile.ZIP_DEFLATED)
        with pytest.raises(CacheError, match="is no plain file" if "link" in change else "is compressed"):
            open_cache(path)
