"""Pushing a cache to a URL and pulling one from it; both go on where they stopped, and verify what arrived."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import fsspec

from cache_schema.convert import convert_cache
from cache_schema.errors import CacheError
from cache_schema.reader import open_cache
from cache_schema.stores import SUFFIXES, open_store
from cache_schema.stores.remote import (
    PUSH_MARK,
    FolderSource,
    RemoteStore,
    fetch_file,
    filesystem,
    in_parallel,
    open_remote,
    read_root,
)
from cache_schema.stores.working import discard
from cache_schema.stores.zarr_store import file_names, flush
from cache_schema.validate import validate_cache

OnBytes = Callable[[int], object]


def push_cache(
    source: str | os.PathLike, url: str, force: bool = False, verify: bool = True, on_bytes: OnBytes = lambda _: None
) -> str:
    """Copies a cache to a URL and returns its cache_id.

    To a URL that ends in .h5 or .zip goes one file, to any other the files of the Zarr group; the root's metadata,
    without which nothing there can be opened, go last. Files that an interrupted push of the same cache left are not
    sent again.

    Args:
        source: a finished cache; it is validated first.
        url: any fsspec URL or path that can be written.
        force: whether another cache that is there is replaced. It cannot be read from then on until the new one is.
        verify: whether every file is read back and compared; without, its size alone is.
        on_bytes: called with the bytes of each file that is there.

    Raises:
        CacheError: the cache has faults, another one is there, or the URL cannot be written.
    """
    problems = validate_cache(source)
    if problems:
        raise CacheError(f"{source}: {len(problems)} faults, as in {problems[0]} See them all with tkd cache validate.")
    cache = open_cache(source)
    identity, suffix = cache.metadata["cache_id"], PurePosixPath(url).suffix
    wanted = suffix if suffix in (".h5", ".zip") else ".zarr"
    if cache.store.container != wanted or not Path(source).exists():
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder, f"cache{wanted}")
            convert_cache(source, copy)
            return push_cache(copy, url, force, verify, on_bytes)
    fs, path = filesystem(url)
    if "http" in fs.protocol:
        raise CacheError(f"{url}: the web is read only. Push to a path, s3://, gs:// or hf://.")
    try:
        if wanted == ".zarr":
            _push_folder(Path(source), file_names(cache.layout), fs, path, url, identity, force, verify, on_bytes)
        else:
            _push_file(Path(source), fs, path, url, identity, force, verify, on_bytes)
    except CacheError:
        raise
    except Exception as error:  # every file system has its own
        reason = str(error).strip() or type(error).__name__
        raise CacheError(
            f"{url}: cannot be written ({reason}). Check the address and your credentials, then push again: it goes on."
        ) from error
    return identity


def _push_folder(
    folder: Path,
    names: list[str],
    fs: fsspec.AbstractFileSystem,
    path: str,
    url: str,
    identity: str,
    force: bool,
    verify: bool,
    on_bytes: OnBytes,
) -> None:
    root = (folder / "zarr.json").read_bytes()
    there = _read(fs, f"{path}/zarr.json")
    if there is not None and there != root:
        if not force:
            raise CacheError(f"{url}: another cache is there already; --force replaces it, or give another URL.")
        fs.rm_file(f"{path}/zarr.json")
    mark = json.dumps({"cache_id": identity, "root_sha256": hashlib.sha256(root).hexdigest()}).encode()
    begun = _read(fs, f"{path}/{PUSH_MARK}")
    if begun not in (None, mark) and not force:
        raise CacheError(f"{url}: a push of another cache was begun there; --force replaces it, or give another URL.")
    _write(fs, f"{path}/{PUSH_MARK}", mark)

    def send(name: str) -> None:
        content, target = (folder / name).read_bytes(), f"{path}/{name}"
        if there != root and (begun != mark or _size(fs, target) != len(content)):
            _write(fs, target, content)
        if not _arrived(fs, target, content, verify):
            _write(fs, target, content)
            if not _arrived(fs, target, content, verify):
                raise CacheError(f"{url}/{name}: does not read back as it was sent. Push again.")
        on_bytes(len(content))

    in_parallel(send, [name for name in names if name != "zarr.json"])
    send("zarr.json")
    fs.rm_file(f"{path}/{PUSH_MARK}")


def _push_file(
    file: Path,
    fs: fsspec.AbstractFileSystem,
    path: str,
    url: str,
    identity: str,
    force: bool,
    verify: bool,
    on_bytes: OnBytes,
) -> None:
    if fs.exists(path) and not force:
        if _digest_at(fs, path) != _digest_of(file):
            raise CacheError(f"{url}: something else is there already; --force replaces it, or give another URL.")
    else:
        _make_parent(fs, path)
        fs.put_file(str(file), path)
        if (verify and _digest_at(fs, path) != _digest_of(file)) or fs.size(path) != file.stat().st_size:
            raise CacheError(f"{url}: does not read back as it was sent. Push again with --force.")
    on_bytes(file.stat().st_size)


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
    destination = Path(destination)
    if destination.suffix not in SUFFIXES:
        raise CacheError(f"{destination}: the name of a cache ends in {', '.join(SUFFIXES)}. Give such a name.")
    suffix = PurePosixPath(url.partition("?")[0]).suffix
    there = open_cache(destination) if destination.exists() else None
    if there is not None and not force:
        remote = open_remote(url).metadata["cache_id"] if suffix not in (".h5", ".zip") else None
        if remote == there.metadata["cache_id"] and not validate_cache(destination):
            return remote
        raise CacheError(f"{destination}: already there; --force replaces it, or give another name.")
    destination.parent.mkdir(parents=True, exist_ok=True)
    working = Path(f"{destination}.pulling")
    if suffix in (".h5", ".zip"):
        working = working.with_name(f"{working.name}{suffix}")
        fetch_file(url, working, on_bytes)
        kind = suffix
    else:
        _pull_folder(url, working, on_bytes)
        kind = ".zarr"
    problems = validate_cache(working)
    if problems:
        damaged = ", ".join(problem.place for problem in problems[:5])
        discard(working, working)
        raise CacheError(
            f"{url}: arrived with {len(problems)} faults ({damaged}). Pull again; if that gives the same, the cache "
            "there is damaged."
        )
    if kind != destination.suffix:
        convert_cache(working, destination, force=force)
        discard(working, working)
    else:
        flush(working)
        if destination.is_dir():
            discard(destination, destination)
        os.replace(working, destination)
    return open_store(destination).metadata["cache_id"]


def _pull_folder(url: str, working: Path, on_bytes: OnBytes) -> None:
    source = FolderSource(url)
    root = read_root(source)
    if (working / "zarr.json").exists() and (working / "zarr.json").read_bytes() != root:
        discard(working, working)  # begun with another cache
    store = RemoteStore(source, root, working, on_bytes)
    store.fetch(file_names(store.layout()))
    for leftover in working.rglob(".*.fetching"):  # of a pull that was killed
        leftover.unlink()


def _read(fs: fsspec.AbstractFileSystem, path: str) -> bytes | None:
    try:
        return fs.cat_file(path)
    except FileNotFoundError:
        return None


def _size(fs: fsspec.AbstractFileSystem, path: str) -> int | None:
    try:
        return fs.size(path)
    except FileNotFoundError:
        return None


def _write(fs: fsspec.AbstractFileSystem, path: str, content: bytes) -> None:
    _make_parent(fs, path)
    fs.pipe_file(path, content)


def _make_parent(fs: fsspec.AbstractFileSystem, path: str) -> None:
    if "file" in fs.protocol:  # object stores have no folders
        fs.makedirs(os.path.dirname(path), exist_ok=True)


def _arrived(fs: fsspec.AbstractFileSystem, path: str, content: bytes, verify: bool) -> bool:
    return fs.cat_file(path) == content if verify else fs.size(path) == len(content)


def _digest_at(fs: fsspec.AbstractFileSystem, path: str) -> str:
    with fs.open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
