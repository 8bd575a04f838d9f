"""Pushing a cache to a URL and pulling one from it; both go on where they stopped, and verify what arrived."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import fsspec

from cache_schema.convert import convert_locked, require_destination
from cache_schema.errors import CacheError
from cache_schema.format.schema import Layout, required_arrays
from cache_schema.lock import only_one
from cache_schema.reader import Cache, cache_of, open_cache
from cache_schema.stores import open_store
from cache_schema.stores.remote import (
    PUSH_MARK,
    FolderSource,
    RemoteStore,
    fetch_file,
    filesystem,
    in_parallel,
    read_root,
    suffix_of,
)
from cache_schema.stores.working import discard, replace
from cache_schema.stores.zarr_store import file_names, flush
from cache_schema.validate import validate_cache

OnBytes = Callable[[int], object]
_THREADS = 4  # each holds a file, and what is read back of it
_WHOLE_PUTS = {"s3", "s3a", "gs", "gcs", "hf", "memory"}  # where a file is there whole or not at all


@dataclass(frozen=True)
class _Target:
    """Where a cache is pushed to."""

    url: str
    fs: fsspec.AbstractFileSystem
    path: str
    verify: bool
    on_bytes: OnBytes

    @property
    def protocols(self) -> set[str]:
        protocol = self.fs.protocol
        return {protocol} if isinstance(protocol, str) else set(protocol)

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if there is none."""
        try:
            return self.fs.cat_file(f"{self.path}/{name}")
        except FileNotFoundError:
            return None

    def holds(self, name: str, content: bytes, verify: bool) -> bool:
        """Whether a file is there with this content, or, unverified, with its size."""
        try:
            path = f"{self.path}/{name}"
            return self.fs.cat_file(path) == content if verify else self.fs.size(path) == len(content)
        except FileNotFoundError:
            return False

    def write(self, name: str, content: bytes) -> None:
        self.make_parent(name)
        self.fs.pipe_file(f"{self.path}/{name}", content)

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self.fs.rm_file(f"{self.path}/{name}")

    def make_parent(self, name: str = "") -> None:
        if not self.protocols & _WHOLE_PUTS:  # object stores have no folders
            self.fs.makedirs(os.path.dirname(f"{self.path}/{name}".rstrip("/")), exist_ok=True)


def push_cache(
    source: str | os.PathLike, url: str, force: bool = False, verify: bool = True, on_bytes: OnBytes = lambda _: None
) -> str:
    """Copies a cache to a URL and returns its cache_id.

    To a URL that ends in .h5 or .zip goes one file, to any other the files of the Zarr group; the root's metadata,
    without which nothing there can be opened, go last. Of these, files that an interrupted push of the same cache left
    are not sent again.

    Args:
        source: a finished cache; it is validated first.
        url: any fsspec URL or path that can be written.
        force: whether another cache that is there is replaced. Neither can be read until the new one is there.
        verify: whether every file is read back and compared; without, its size alone is.
        on_bytes: called with the bytes of each file that is there.

    Raises:
        CacheError: the cache has faults, another one is there, or the URL cannot be written.
    """
    problems = validate_cache(source)
    if problems:
        raise CacheError(f"{source}: {len(problems)} faults, as in {problems[0]} See them all with tkd cache validate.")
    cache = open_cache(source)
    container = suffix_of(url) if suffix_of(url) in (".h5", ".zip") else ".zarr"
    fs, path = filesystem(url)
    target = _Target(url, fs, path, verify, on_bytes)
    if "http" in target.protocols:
        raise CacheError(f"{url}: the web is read only. Push to a path, s3://, gs:// or hf://.")
    if isinstance(cache.path, str) or cache.store.container != container:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder, f"cache{container}")
            convert_locked(cache, copy)
            return push_cache(copy, url, force, verify, on_bytes)
    try:
        if container == ".zarr":
            _push_folder(cache, target, force)
        else:
            _push_file(cache.path, target, force)
    except CacheError:
        raise
    except Exception as error:  # every file system has its own
        reason = str(error).strip() or type(error).__name__
        raise CacheError(
            f"{url}: cannot be written ({reason}). Check the address and your credentials, then push again: it goes on."
        ) from error
    return cache.metadata["cache_id"]


def _push_folder(cache: Cache, target: _Target, force: bool) -> None:
    names = file_names(cache.layout)
    root = (cache.path / "zarr.json").read_bytes()
    there, begun = target.read("zarr.json"), _mark(target)
    mark = begun
    if begun.get("root_sha256") != hashlib.sha256(root).hexdigest():
        if there == root:
            mark = {"fresh": False, "stale": []}  # it is there: no more than looked through
        elif (there is not None or begun) and not force:
            what = "another cache is there already" if there is not None else "a push of another cache was begun there"
            raise CacheError(f"{target.url}: {what}; --force replaces it, or give another URL.")
        else:
            stale = {*_names_of(there), *begun.get("stale", ()), *begun.get("names", ())} - set(names)
            mark = {"fresh": there is None and not begun, "stale": sorted(stale)}
        mark = {"root_sha256": hashlib.sha256(root).hexdigest(), "names": names, **mark}
        target.write(PUSH_MARK, json.dumps(mark).encode())
    if there not in (None, root):
        target.remove("zarr.json")

    def send(name: str) -> None:
        content = (cache.path / name).read_bytes()
        # Where another cache has been, a file of the same size may be that one's.
        if not target.holds(name, content, target.verify or not mark["fresh"]):
            target.write(name, content)
            if not target.holds(name, content, target.verify):
                raise CacheError(f"{target.url}/{name}: does not read back as it was sent. Push again.")
        target.on_bytes(len(content))

    # On the hub each file is a commit, and two at once refuse each other.
    n_threads = 1 if "hf" in target.protocols else _THREADS
    in_parallel(send, [name for name in names if name != "zarr.json"], n_threads)
    in_parallel(target.remove, mark["stale"], n_threads)
    if _mark(target) != mark:
        raise CacheError(f"{target.url}: another push has begun there since. Push again when it is done.")
    send("zarr.json")
    target.remove(PUSH_MARK)


def _mark(target: _Target) -> dict:
    """What an unfinished push wrote down; empty if there is none."""
    try:
        return json.loads(target.read(PUSH_MARK) or b"{}")
    except ValueError:  # cut off itself
        return {"names": []}


def _names_of(root: bytes | None) -> list[str]:
    """The files of a cache that is to be replaced, as far as its root can be understood."""
    try:
        return file_names(Layout(**json.loads(root or b"")["attributes"]["tkd_cache"]["layout"]))
    except (ValueError, KeyError, TypeError):
        return []


def _push_file(file: Path, target: _Target, force: bool) -> None:
    fs, path, size = target.fs, target.path, file.stat().st_size
    if fs.exists(path) and fs.size(path) == size and _digest_at(fs, path) == _digest_of(file):
        target.on_bytes(size)
        return
    if fs.exists(path) and not force:
        raise CacheError(f"{target.url}: something else is there already; --force replaces it, or give another URL.")
    target.make_parent()
    if target.protocols & _WHOLE_PUTS:
        fs.put_file(str(file), path)
    else:
        fs.put_file(str(file), f"{path}.pushing")
        _require_sent(file, target, f"{path}.pushing")  # before what is there is replaced
        fs.mv(f"{path}.pushing", path)
    _require_sent(file, target, path)
    target.on_bytes(size)


def _require_sent(file: Path, target: _Target, path: str) -> None:
    """Raises CacheError unless what is at the path is the file."""
    fs, size = target.fs, file.stat().st_size
    if fs.size(path) != size or (target.verify and _digest_at(fs, path) != _digest_of(file)):
        raise CacheError(f"{target.url}: does not read back as it was sent. Push again with --force.")


def pull_cache(
    url: str, destination: str | os.PathLike, force: bool = False, on_bytes: OnBytes = lambda _: None
) -> str:
    """Copies a cache from a URL and returns its cache_id.

    Files that an interrupted pull left are not fetched again. The copy takes its name when every byte is verified.

    Args:
        url: of a folder, a .zip or a .h5.
        destination: a name in .zarr, .h5 or .zip.
        force: whether a cache of that name is replaced.
        on_bytes: called with the bytes of every piece that arrives.

    Raises:
        CacheError: there is none, it cannot be had, or it is damaged; or the destination is there already.
    """
    destination = require_destination(destination)
    with only_one(destination):
        if destination.exists():
            there = open_store(destination).metadata  # only a cache may be replaced by one
            if not force and not _is_at(url, there):
                raise CacheError(f"{destination}: already there; --force replaces it, or give another name.")
            if not force:
                problems = validate_cache(destination)
                if problems:
                    raise CacheError(f"{destination}: already there, and damaged ({problems[0]}); --force replaces it.")
                return there["cache_id"]
        working = Path(f"{destination}.pulling")
        if suffix_of(url) in (".h5", ".zip"):
            working = working.with_name(f"{working.name}{suffix_of(url)}")
            fetch_file(url, working, on_bytes)
        else:
            _pull_folder(url, working, on_bytes)
        try:
            problems = validate_cache(working)
        except CacheError:  # so damaged that it cannot be looked into
            discard(working, working)
            raise
        if problems:
            discard(working, working)
            places = ", ".join(problem.place for problem in problems[:5])
            raise CacheError(f"{url}: the cache there is damaged ({len(problems)} faults: {places}).")
        cache = open_cache(working)
        if cache.store.container == destination.suffix:
            flush(working)
            replace(working, destination)
        else:
            convert_locked(cache, destination)
            discard(working, working)
        for leftover in destination.parent.iterdir():  # the marks of those that fetched, and pieces
            if leftover.name.removeprefix(".").startswith(f"{destination.name}.pulling"):
                discard(leftover, leftover)
        return cache.metadata["cache_id"]


def _is_at(url: str, metadata: dict) -> bool:
    """Whether the cache of these metadata is what a folder at a URL holds; of a single file that is not asked."""
    if suffix_of(url) in (".h5", ".zip"):
        return False
    root = json.loads(read_root(FolderSource(url)))
    return root.get("attributes", {}).get("tkd_cache", {}).get("cache_id") == metadata.get("cache_id")


def _pull_folder(url: str, working: Path, on_bytes: OnBytes) -> None:
    source = FolderSource(url)
    root = read_root(source)
    if (working / "zarr.json").exists() and (working / "zarr.json").read_bytes() != root:
        discard(working, working)  # begun with another cache
    store = RemoteStore(source, root, working, on_bytes)
    store.fetch(file_names(store.layout()))
    cache = cache_of(store)
    for name, spec in required_arrays(cache.layout).items():
        for index in range(cache.layout.n_partitions) if spec.written == "partition" else (None,):
            rows = slice(None) if index is None else cache.layout.partition_rows(index)
            try:  # what arrived damaged is fetched once more
                cache.read(name, None if index is None else [index], decode=False)
            except CacheError:
                store.refresh(name, rows)
                raise
    for leftover in working.rglob(".*.writing"):  # of a pull that was killed
        leftover.unlink()


def _digest_at(fs: fsspec.AbstractFileSystem, path: str) -> str:
    with fs.open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
