"""Caches at URLs: the web with and without Range requests, an S3 server, and what goes wrong on the way."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import boto3
import fsspec
import numpy as np
import pytest
import s3fs
from cache_builder import build, metadata, sizes
from file_server import file_server
from fsspec.implementations.local import LocalFileSystem
from moto.server import ThreadedMotoServer

from cache_schema import (
    CacheError,
    convert_cache,
    describe_cache,
    open_cache,
    pull_cache,
    push_cache,
    validate_cache,
)

LAYOUT = sizes(keep="layers")
SUFFIXES = (".zarr", ".h5", ".zip")


@pytest.fixture(autouse=True)
def local_copies(tmp_path, monkeypatch):
    monkeypatch.setenv("TKD_HOME", str(tmp_path / "home-é"))
    monkeypatch.setattr("cache_schema.stores.remote.RETRY_SECONDS", 0)
    return tmp_path / "home-é"


@pytest.fixture
def served(tmp_path):
    """A folder with the same cache in each container."""
    folder = tmp_path / "served"
    build(folder / "kws.zarr", LAYOUT)
    convert_cache(folder / "kws.zarr", folder / "kws.h5")
    convert_cache(folder / "kws.zarr", folder / "kws.zip")
    return folder


@pytest.fixture(scope="module")
def s3():
    """The address of an S3 server with a bucket `team`."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="team")
        s3fs.S3FileSystem.clear_instance_cache()
        yield "s3://team"
    server.stop()


def flip(file, part=0.5):
    content = bytearray(file.read_bytes())
    content[int(len(content) * part)] ^= 4
    file.write_bytes(content)


def read_all(location):
    cache = open_cache(location)
    return {name: cache.read(name, decode=False).tolist() for name in cache.specs}


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_cache_is_read_from_the_web_with_and_without_range_requests(served, suffix, ranges):
    with file_server(served, ranges) as server:
        url = f"{server.url}/kws{suffix}"
        assert open_cache(url).metadata == open_cache(served / "kws.zarr").metadata
        assert repr(read_all(url)) == repr(read_all(served / "kws.zarr"))
        assert validate_cache(url) == []
        described = describe_cache(url)
        assert described["path"] == url
        assert described["arrays"]["rollout"]["bytes"] > 0


@pytest.mark.parametrize(("suffix", "ranges"), [(".zarr", False), (".zip", True)])
def test_only_what_is_read_is_fetched_and_only_once(served, suffix, ranges):
    with file_server(served, ranges) as server:
        cache = open_cache(f"{server.url}/kws{suffix}")
        fetched = []
        cache = open_cache(f"{server.url}/kws{suffix}", on_fetch=fetched.append)
        small = sum(fetched)
        cache.read("rollout", [1])
        assert sum(fetched) - small == (served / "kws.zarr/rollout/c/1/0").stat().st_size
        asked = len(server.served)
        cache.read("rollout", [1])
        assert len(server.served) == asked


def test_the_local_copy_of_a_cache_that_was_replaced_is_not_used(served):
    with file_server(served) as server:
        url = f"{server.url}/kws.zarr"
        old = open_cache(url)
        old.read("features")
        given = metadata(LAYOUT)
        given["teacher"]["name"] = "another"
        build(served / "kws.zarr", LAYOUT, given, force=True)
        assert open_cache(url).metadata["teacher"]["name"] == "another"


@pytest.mark.parametrize("name", ["rollout/c/1/0", "rollout/zarr.json", "split/c/0", "zarr.json"])
def test_a_damaged_local_copy_mends_itself(served, local_copies, name):
    with file_server(served) as server:
        url = f"{server.url}/kws.zarr"
        expected = repr(read_all(url))
        flip((*local_copies.glob(f"*/{name}"),)[0])
        assert repr(read_all(url)) == expected


@pytest.mark.parametrize("etag", [False, True])
@pytest.mark.parametrize(("suffix", "ranges"), [(".h5", True), (".h5", False), (".zip", False)])
def test_a_damaged_local_copy_of_one_file_mends_itself(served, local_copies, suffix, ranges, etag):
    """With an ETag it is known to be the same, and is not fetched before it proves damaged."""
    with file_server(served, ranges) as server:
        url, server.etag = f"{server.url}/kws{suffix}", etag
        expected = repr(read_all(url))
        n_bytes = server.n_bytes
        assert repr(read_all(url)) == expected
        if suffix == ".h5":  # of a .zip parts are asked for, and this server sends the whole
            assert (server.n_bytes - n_bytes < 10) is etag
        for part in np.linspace(0, 0.99, 25):
            flip((*local_copies.glob(f"*-kws{suffix}"),)[0], part)
            assert repr(read_all(url)) == expected


def test_validate_looks_at_the_url_and_mends_the_local_copy(served, local_copies):
    with file_server(served) as server:
        url = f"{server.url}/kws.zarr"
        expected = repr(read_all(url))
        flip((*local_copies.glob("*/rollout/c/1/0"),)[0])
        assert validate_cache(url) == [] and repr(read_all(url)) == expected
        flip(served / "kws.zarr" / "rollout" / "c" / "1" / "0")
        assert [problem.place for problem in validate_cache(url)] == ["rollout, partition 1 (clips 4 to 7)"]


@pytest.mark.parametrize("suffix", [".h5", ".zip"])
def test_a_server_that_fails_for_a_moment_is_asked_again_and_one_that_refuses_is_no_wrong_address(served, suffix):
    with file_server(served) as server:
        answers = iter([503, 503])
        server.refuse = lambda _: next(answers, None)
        assert open_cache(f"{server.url}/kws{suffix}").read("rollout").shape
        server.refuse = lambda _: 401
        with pytest.raises(CacheError, match=r"401.*Check the address, the network and your credentials"):
            open_cache(f"{server.url}/kws{suffix}")


@pytest.mark.parametrize("suffix", [".h5", ".zip"])
def test_a_pull_of_what_cannot_be_opened_leaves_nothing_that_stops_the_next(served, tmp_path, suffix):
    whole = (served / f"kws{suffix}").read_bytes()
    with file_server(served) as server:
        server.etag, target = True, tmp_path / f"pulled{suffix}"
        server.change = lambda _, content: bytes(len(content))
        with pytest.raises(CacheError):
            pull_cache(f"{server.url}/kws{suffix}", target)
        server.change = lambda _, content: content
        pull_cache(f"{server.url}/kws{suffix}", target)
    assert target.read_bytes() == whole


def test_a_second_push_that_has_begun_meanwhile_is_noticed(served, tmp_path):
    other, target = metadata(LAYOUT), tmp_path / "there.zarr"
    other["teacher"]["name"] = "other"
    build(tmp_path / "other.zarr", LAYOUT, other)
    pushed = []

    def another(_n_bytes):
        if not pushed:
            pushed.append(True)
            push_cache(tmp_path / "other.zarr", str(target), force=True)

    with pytest.raises(CacheError, match=r"another push has begun there since\. Push again when it is done"):
        push_cache(served / "kws.zarr", str(target), on_bytes=another)


def test_a_push_of_a_file_that_arrives_damaged_leaves_the_one_that_is_there(served, tmp_path, monkeypatch):
    target, good = tmp_path / "there.h5", (served / "kws.zarr")
    push_cache(good, str(target))
    before, copied = target.read_bytes(), LocalFileSystem.put_file

    def damaged(self, source, path, **more):
        copied(self, source, path, **more)
        flip(Path(path))

    build(tmp_path / "other.zarr", LAYOUT, {**metadata(LAYOUT), "software": {"other": "1"}})
    monkeypatch.setattr(LocalFileSystem, "put_file", damaged)
    with pytest.raises(CacheError, match="does not read back as it was sent"):
        push_cache(tmp_path / "other.zarr", str(target), force=True)
    assert target.read_bytes() == before


@pytest.mark.parametrize("suffix", [".h5", ".zip"])
def test_one_file_that_was_replaced_is_fetched_again_though_nothing_but_its_size_is_known(served, tmp_path, suffix):
    given = metadata(LAYOUT)
    given["teacher"]["name"] = given["teacher"]["name"][::-1]
    build(tmp_path / "other.zarr", LAYOUT, given)
    with file_server(served, ranges=False) as server:
        url = f"{server.url}/kws{suffix}"
        open_cache(url).read("rollout")
        convert_cache(tmp_path / "other.zarr", served / f"kws{suffix}", force=True)
        assert open_cache(url).metadata["teacher"]["name"] == given["teacher"]["name"]


def _read_in_child(location, queue):
    queue.put(open_cache(location).read("rollout").tolist())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_two_processes_read_one_url_at_once_and_a_forked_one_reads_an_open_cache(served, suffix):
    context = multiprocessing.get_context("fork")
    with file_server(served) as server:
        url, queue = f"{server.url}/kws{suffix}", context.Queue()
        children = [context.Process(target=_read_in_child, args=(url, queue)) for _ in range(3)]
        for child in children:
            child.start()
        expected = open_cache(served / "kws.zarr").read("rollout").tolist()
        assert [queue.get(timeout=60) for _ in children] == [expected] * 3
        cache = open_cache(url)
        cache.read("features")
        child = context.Process(target=lambda: queue.put(cache.read("logits").tolist()))
        child.start()
        assert queue.get(timeout=60) == cache.read("logits").tolist()
        for process in (*children, child):
            process.join()


@pytest.mark.parametrize("name", ["rollout/c/1/0", "features/zarr.json", "split/c/0", "partition_digest/c/0"])
def test_what_is_damaged_at_the_url_is_named_and_not_read(served, name):
    flip(served / "kws.zarr" / name)
    with file_server(served) as server, pytest.raises(CacheError, match=name.partition("/")[0]):
        read_all(f"{server.url}/kws.zarr")


def test_a_file_missing_at_the_url_is_named(served):
    (served / "kws.zarr/features/c/2/0/0").unlink()
    text = r"features, partition 2 .*missing: there is no http.*features/c/2/0/0"
    with file_server(served) as server, pytest.raises(CacheError, match=text):
        read_all(f"{server.url}/kws.zarr")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_pull_that_is_cut_off_goes_on_and_is_verified(served, tmp_path, suffix, monkeypatch):
    monkeypatch.setattr("cache_schema.stores.remote._BLOCK", 4000)
    target = tmp_path / f"pulled{suffix}"
    with file_server(served) as server:
        url = f"{server.url}/kws{suffix}"
        budget = 5 if suffix != ".zarr" else 30

        def stop_after(_path, content):
            return content if len(server.served) < budget else None

        server.change = stop_after
        with pytest.raises(CacheError, match="cannot be read"):
            pull_cache(url, target)
        assert not target.exists()
        arrived = {
            f"/kws.zarr/{shard.relative_to(tmp_path / 'pulled.zarr.pulling')}"
            for shard in tmp_path.glob("*.pulling/*/c/**/*")
            if shard.is_file()
        }
        first, server.change = len(server.served), lambda _, content: content
        pull_cache(url, target)
        if suffix == ".zarr":
            assert arrived
            assert {path for path in server.served[first:] if path in arrived} <= {"/kws.zarr/partition_digest/c/0"}
        else:
            assert server.n_bytes < 1.2 * (served / f"kws{suffix}").stat().st_size  # not twice; some are asked to probe
    assert repr(read_all(target)) == repr(read_all(served / "kws.zarr"))
    assert {entry.name for entry in tmp_path.iterdir()} <= {target.name, "served", "home-é", f".{target.name}.lock"}


def test_a_pull_through_a_line_that_flips_a_bit_is_refused_with_the_place(served, tmp_path):
    with file_server(served) as server:

        def damage(path, content):
            return content if "features/c/1" not in path else bytes([content[0] ^ 1]) + content[1:]

        server.change = damage
        with pytest.raises(CacheError, match=r"features, partition 1 "):
            pull_cache(f"{server.url}/kws.zarr", tmp_path / "pulled.zarr")
        assert not (tmp_path / "pulled.zarr").exists()
        server.change, first = lambda _, content: content, len(server.served)
        pull_cache(f"{server.url}/kws.zarr", tmp_path / "pulled.zarr")
        again = [path for path in server.served[first:] if "/c/" in path and "digest" not in path]
        assert again == ["/kws.zarr/features/c/1/0/0"]


def test_a_pull_may_change_the_container_and_does_not_replace_unasked(served, tmp_path):
    with file_server(served) as server:
        identity = pull_cache(f"{server.url}/kws.zarr", tmp_path / "pulled.h5")
        assert open_cache(tmp_path / "pulled.h5").metadata["cache_id"] == identity
        with pytest.raises(CacheError, match=r"pulled.h5: already there; --force replaces it"):
            pull_cache(f"{server.url}/kws.zip", tmp_path / "pulled.h5")
        assert pull_cache(f"{server.url}/kws.zarr", tmp_path / "pulled.h5") == identity  # the same: nothing to do
        (tmp_path / "pulled.h5.pulling").mkdir()  # of a folder, which was interrupted
        (tmp_path / "pulled.h5.pulling" / "zarr.json").write_text("{}")
        pull_cache(f"{server.url}/kws.zip", tmp_path / "pulled.h5", force=True)
        assert not list(tmp_path.glob("*.pulling*"))


def test_addresses_that_lead_nowhere_say_so(served, tmp_path):
    with file_server(served) as server:
        for name, message in {
            "none.zarr": r"none.zarr: no cache there \(there is no zarr.json\). Check the address",
            "none.h5": r"none.h5: not found. Check the address",
            "none.zip": r"none.zip: not found. Check the address",
        }.items():
            with pytest.raises(CacheError, match=message):
                open_cache(f"{server.url}/{name}")
        url = server.url
    with pytest.raises(CacheError, match=r"kws.zarr/zarr.json: cannot be read .* Check the address, the network"):
        open_cache(f"{url}/kws.zarr")
    with pytest.raises(CacheError, match=r"nosuch://x: .*Give a path, or a URL as in"):
        open_cache("nosuch://x")
    with pytest.raises(CacheError, match=r"the web is read only. Push to"):
        push_cache(served / "kws.zarr", f"{url}/new.zarr")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_s3_there_and_back(served, s3, tmp_path, suffix):
    url = f"{s3}/caches/there{suffix}"
    identity = push_cache(served / "kws.zarr", url)
    assert repr(read_all(url)) == repr(read_all(served / "kws.zarr"))
    assert push_cache(served / "kws.zarr", url) == identity  # the same: nothing to do
    assert pull_cache(url, tmp_path / "back.zarr") == identity
    assert validate_cache(tmp_path / "back.zarr") == []


def test_another_cache_at_the_url_is_replaced_only_by_force(served, s3, tmp_path):
    given = metadata(LAYOUT)
    given["teacher"]["name"] = "another"
    other, identity = build(tmp_path / "other.zarr", LAYOUT, given)
    for suffix in SUFFIXES:
        url = f"{s3}/taken{suffix}"
        push_cache(served / "kws.zarr", url)
        with pytest.raises(CacheError, match="is there already; --force replaces it"):
            push_cache(other, url)
        push_cache(other, url, force=True)
        assert open_cache(url).metadata["cache_id"] == identity


def test_a_push_that_is_cut_off_opens_nowhere_and_goes_on(served, s3, monkeypatch):
    url, sent = f"{s3}/cut.zarr", []
    send = s3fs.S3FileSystem._pipe_file

    async def stop_after_ten(self, path, content, **options):
        sent.append(path)
        if len(sent) > 10:
            raise OSError("the line is cut")
        return await send(self, path, content, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_pipe_file", stop_after_ten)
    s3fs.S3FileSystem.clear_instance_cache()  # an instance keeps the method it was made with
    with pytest.raises(CacheError, match=r"cut.zarr: cannot be written \(the line is cut\).*push again: it goes on"):
        push_cache(served / "kws.zarr", url)
    with pytest.raises(CacheError, match=r"cut.zarr: not there yet; a tkd cache push to it is not finished"):
        open_cache(url)
    arrived = set(fsspec.filesystem("s3").find("team/cut.zarr"))
    sent.clear()
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setattr(s3fs.S3FileSystem, "_pipe_file", lambda self, path, content, **options: (
        sent.append(path), send(self, path, content, **options))[1])  # fmt: skip
    push_cache(served / "kws.zarr", url)
    assert arrived & set(sent) <= {"team/cut.zarr/push.json"}
    assert repr(read_all(url)) == repr(read_all(served / "kws.zarr"))
    assert not fsspec.filesystem("s3").exists("team/cut.zarr/push.json")


def test_a_push_to_a_path_or_file_url_is_a_copy(served, tmp_path):
    push_cache(served / "kws.zarr", str(tmp_path / "team" / "kws.zarr"))
    push_cache(served / "kws.h5", f"file://{tmp_path}/team/kws.zip")
    assert repr(read_all(tmp_path / "team" / "kws.zip")) == repr(read_all(tmp_path / "team" / "kws.zarr"))


def test_a_smaller_cache_that_replaces_a_larger_one_leaves_nothing_of_it(served, tmp_path):
    small, _ = build(tmp_path / "small.zarr", sizes(keep="rollout", with_features=False))
    target = tmp_path / "team.zarr"
    push_cache(served / "kws.zarr", str(target))
    push_cache(small, str(target), force=True)
    assert validate_cache(target) == []
    assert not (target / "push.json").exists()


def test_a_push_over_another_cache_that_is_cut_off_and_repeated_unverified_mixes_nothing(served, tmp_path, monkeypatch):
    given = metadata(LAYOUT)
    given["teacher"]["name"] = "another"
    other, identity = build(tmp_path / "other.zarr", LAYOUT, given)
    target, write = str(tmp_path / "team.zarr"), LocalFileSystem.pipe_file
    push_cache(served / "kws.zarr", target)
    (tmp_path / "team.zarr/rollout/c/1/0").write_bytes(b"x" * (other / "rollout/c/1/0").stat().st_size)

    def stop(self, path, content, **options):
        if "zarr.json" in path:
            raise OSError("the line is cut")
        return write(self, path, content, **options)

    with monkeypatch.context() as patch:
        patch.setattr(LocalFileSystem, "pipe_file", stop)
        with pytest.raises(CacheError, match="the line is cut"):
            push_cache(other, target, force=True, verify=False)
    push_cache(other, target, verify=False)
    assert validate_cache(target) == []
    assert open_cache(target).metadata["cache_id"] == identity


def test_one_file_pushed_to_a_path_is_there_whole_or_not_at_all(served, tmp_path, monkeypatch):
    target = tmp_path / "team" / "kws.h5"

    def stop(self, local, path, **options):
        Path(path).write_bytes(b"half")
        raise OSError("the line is cut")

    with monkeypatch.context() as patch:
        patch.setattr(LocalFileSystem, "put_file", stop)
        with pytest.raises(CacheError, match="the line is cut"):
            push_cache(served / "kws.h5", str(target))
    assert not target.exists()
    push_cache(served / "kws.h5", str(target))
    assert [entry.name for entry in target.parent.iterdir()] == ["kws.h5"]


def test_a_pull_replaces_a_damaged_cache_by_force_and_is_readable_by_the_team(served, tmp_path):
    target = tmp_path / "pulled.zarr"
    with file_server(served) as server:
        url = f"{server.url}/kws.zarr"
        pull_cache(url, target)
        (tmp_path / "usual").touch()  # as the umask has it
        modes = {os.stat(file).st_mode for file in target.rglob("*") if file.is_file()}
        assert modes == {os.stat(tmp_path / "usual").st_mode}
        (target / "rollout" / "c" / "0" / "0").unlink()
        with pytest.raises(CacheError, match=r"already there, and damaged \(rollout, partition 0.*--force replaces it"):
            pull_cache(url, target)
        pull_cache(url, target, force=True)
    assert validate_cache(target) == []


def test_a_damaged_cache_is_not_pushed(served, tmp_path):
    (served / "kws.zarr/features/c/2/0/0").unlink()
    with pytest.raises(CacheError, match="2 faults, as in features, partition 2"):
        push_cache(served / "kws.zarr", str(tmp_path / "team.zarr"))
    assert not (tmp_path / "team.zarr").exists()


def test_without_the_packages_the_extra_is_named(tmp_path):
    program = "import sys; sys.modules['s3fs'] = None\nimport cache_schema\ncache_schema.open_cache('s3://team/x.zarr')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "Install it with: pip install -e '.[remote]'" in done.stderr
