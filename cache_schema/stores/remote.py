"""A cache at a URL: what is read of it is kept in a local copy, and read there the next time.

Whole files are fetched, a shard or a small file at a time, so that any server will do, and a stopped fetch leaves whole
files. A single file at a URL (.h5, .zip) is fetched whole, but for a .zip whose server can send parts of it.
"""

import hashlib
import os
import re
import threading
import time
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import numpy as np
import zarr

from cache_schema.errors import CacheError
from cache_schema.format.schema import required_arrays
from cache_schema.lock import hold
from cache_schema.stores.base import Store
from cache_schema.stores.hdf5_store import Hdf5Store
from cache_schema.stores.working import write_whole
from cache_schema.stores.zarr_store import ZarrStore, array_files, file_names
from cache_schema.stores.zip_store import ZipStore, require_plain

OnFetch = Callable[[int], object]  # called with the bytes of every piece that arrives

PUSH_MARK = "push.json"  # lies beside the files of a push that is not finished
RETRY_SECONDS = 0.5  # before the second try; twice that before the third
_BLOCK = 8 * 2**20  # bytes asked for at once of a large file
_THREADS = 8
_TRIES = 3
_WAIT_SECONDS = 24 * 3600  # for another process that fetches the same file
# What the file systems tell of a file that another file of its size has otherwise.
_VALIDATORS = ("ETag", "Last-Modified", "mtime", "LastModified", "updated", "blob_id")


def filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a URL, and the path in it.

    Raises:
        CacheError: the protocol is unknown, or its package is not installed.
    """
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise CacheError(f"{url}: {error}. Install it with: pip install -e '.[remote]' (in tkd's folder)") from error
    except ValueError as error:
        raise CacheError(f"{url}: {error}. Give a path, or a URL as in s3://, gs://, hf:// or https://.") from error
    return fs, path.rstrip("/")


def home() -> Path:
    """Where local copies are kept: $TKD_HOME, or the user's cache folder."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("TKD_HOME") or Path(caches, "tkd"))


class Source(ABC):
    """The files of a cache somewhere else. It may be used in a forked process: connections are made anew there."""

    url: str

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The content of the named file.

        Raises:
            FileNotFoundError: there is no such file.
            CacheError: it cannot be had.
        """

    @abstractmethod
    def size(self, name: str) -> int:
        """Its bytes; raises as `read`."""


class FolderSource(Source):
    """A folder at a URL, as `tkd cache push` leaves it. It need not be listable."""

    def __init__(self, url: str) -> None:
        self.url = url
        filesystem(url)

    def read(self, name: str) -> bytes:
        fs, path = filesystem(self.url)  # one for each process, kept by fsspec
        return _trying(f"{self.url}/{name}", lambda: fs.cat_file(f"{path}/{name}"))

    def size(self, name: str) -> int:
        fs, path = filesystem(self.url)
        return _trying(f"{self.url}/{name}", lambda: fs.size(f"{path}/{name}")) or 0


class ZipSource(Source):
    """A .zip at a URL whose server can send parts of it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._lock = threading.Lock()  # one file position
        self._opened: tuple[int, zipfile.ZipFile] | None = None
        require_plain(url, self._archive().infolist())

    def _archive(self) -> zipfile.ZipFile:
        opened = self._opened
        if opened is None or opened[0] != os.getpid():
            fs, path = filesystem(self.url)
            self._lock = threading.Lock()  # a forked process may have got it locked
            try:
                opened = os.getpid(), _trying(self.url, lambda: zipfile.ZipFile(fs.open(path, "rb")))
            except zipfile.BadZipFile as error:
                raise CacheError(f"{self.url}: cannot be read as .zip ({error}).") from error
            self._opened = opened
        return opened[1]

    def read(self, name: str) -> bytes:
        archive, member = self._archive(), self._member(name)
        with self._lock:
            return _trying(f"{self.url}/{name}", lambda: archive.read(member))

    def size(self, name: str) -> int:
        return self._member(name).file_size

    def _member(self, name: str) -> zipfile.ZipInfo:
        try:
            return self._archive().getinfo(name)
        except KeyError as error:
            raise FileNotFoundError(name) from error


class RemoteStore(ZarrStore):
    """A cache at a URL, and the local copy of what was read of it."""

    def __init__(self, source: Source, root: bytes, folder: Path, on_fetch: OnFetch | None = None) -> None:
        """Opens it.

        Args:
            source: Its files.
            root: Its `zarr.json`.
            folder: The local copy.
            on_fetch: Called with the size of every file that arrives.

        Raises:
            CacheError: it is no cache.
        """
        self.source, self._on_fetch = source, on_fetch
        write_whole(folder / "zarr.json", root)
        super().__init__(folder)
        self.location = source.url
        # What says how to read the rest is small, and fetched anew each time, so that no local damage to it can last.
        self._fetch([f"{name}/zarr.json" for name in self.array_names()] + ["partition_digest/c/0"])

    def __reduce__(self) -> tuple:
        return open_remote, (self.source.url,)

    def array_names(self) -> set[str]:
        return set(required_arrays(self.layout()))  # a folder behind https cannot be listed

    def array(self, name: str) -> zarr.Array:
        self.fetch([f"{name}/zarr.json"])
        return super().array(name)

    def read(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        self.fetch(array_files(name, self.layout(), rows))
        return super().read(name, rows)

    def refresh(self, name: str, rows: slice) -> bool:
        for file in (f"{name}/zarr.json", *array_files(name, self.layout(), rows)):
            (self.folder / file).unlink(missing_ok=True)
        self._opened = None
        return True

    def fetch(self, names: Iterable[str]) -> None:
        """Completes the local copy by the named files.

        Raises:
            CacheError: one is missing, or cannot be had.
        """
        self._fetch([name for name in names if not (self.folder / name).exists()])

    def _fetch(self, names: list[str]) -> None:
        in_parallel(self._fetch_one, names)

    def _fetch_one(self, name: str) -> None:
        try:
            content = self.source.read(name)
        except FileNotFoundError as error:
            raise CacheError(f"missing: there is no {self.source.url}/{name}") from error
        write_whole(self.folder / name, content)
        if self._on_fetch:
            self._on_fetch(len(content))

    @property
    def n_files(self) -> int:
        return len(file_names(self.layout()))

    def _file_sizes(self) -> dict[str, int]:
        names = file_names(self.layout())
        try:
            return dict(zip(names, in_parallel(self.source.size, names), strict=True))
        except FileNotFoundError as error:
            raise CacheError(f"a file is missing: {error}") from error


class _Fetched:
    """A cache in one file that was fetched whole; what proves damaged is fetched once more."""

    def __init__(self, url: str, file: Path, on_fetch: OnFetch | None) -> None:
        self._url, self._file, self._on_fetch, self._refreshed = url, file, on_fetch, False
        super().__init__(file, url)

    def __reduce__(self) -> tuple:
        return open_remote, (self._url,)

    def refresh(self, name: str, rows: slice) -> bool:
        return self.refetch()

    def refetch(self) -> bool:
        if self._refreshed:
            return False
        self._refreshed = True
        self._file.unlink(missing_ok=True)
        fetch_file(self._url, self._file, self._on_fetch)
        self._opened = None
        return True


class FetchedHdf5(_Fetched, Hdf5Store):
    """An .h5 at a URL."""


class FetchedZip(_Fetched, ZipStore):
    """A .zip at a URL whose server sends whole files only."""


def open_remote(url: str, on_fetch: OnFetch | None = None) -> Store:
    """The cache at a URL.

    Args:
        url: Of a folder, a .zip or a .h5.
        on_fetch: Called with the bytes of every piece that arrives.

    Raises:
        CacheError: there is none, or it cannot be had.
    """
    suffix = suffix_of(url)
    if suffix == ".h5" or (suffix == ".zip" and not sends_parts(url)):
        kind = FetchedHdf5 if suffix == ".h5" else FetchedZip
        file = fetch_file(url, None, on_fetch)
        try:
            return kind(url, file, on_fetch)
        except CacheError:
            file.unlink()  # the local copy may be what is damaged
            return kind(url, fetch_file(url, None, on_fetch), on_fetch)
    source = ZipSource(url) if suffix == ".zip" else FolderSource(url)
    root = read_root(source)
    return RemoteStore(source, root, home() / _name(url, root), on_fetch)


def suffix_of(url: str) -> str:
    """The ending of the path in a URL."""
    return PurePosixPath(url.partition("?")[0]).suffix


def read_root(source: Source) -> bytes:
    """The root's metadata, which say whether there is a whole cache.

    Raises:
        CacheError: there is none.
    """
    try:
        return source.read("zarr.json")
    except FileNotFoundError as error:
        try:
            source.read(PUSH_MARK)
        except (FileNotFoundError, CacheError):
            raise CacheError(f"{source.url}: no cache there (there is no zarr.json). Check the address.") from error
        raise CacheError(
            f"{source.url}: not there yet; a tkd cache push to it is not finished. Run that again."
        ) from error


def sends_parts(url: str) -> bool:
    """Whether parts of the file can be asked for (on the web: Range requests)."""
    fs, path = filesystem(url)
    if "http" not in fs.protocol:
        return True
    if not _info(url, fs, path).get("size"):
        return False

    def second_byte() -> bool:
        try:
            with fs.open(path, "rb", cache_type="none") as file:
                file.seek(1)
                return len(file.read(1)) == 1
        except ValueError:  # the whole file came
            return False

    return _trying(url, second_byte)


def fetch_file(url: str, file: Path | None = None, on_fetch: OnFetch | None = None) -> Path:
    """Fetches one file and returns its local path; a stopped fetch goes on where it stopped, if the server allows.

    Another process that fetches the same is waited for.

    Args:
        url: Of the file.
        file: Where to; by default a name of its own in `home()`. What is there is kept if it is known to be the same.
        on_fetch: Called with the bytes of every piece.

    Raises:
        CacheError: it cannot be had, or not all of it came.
    """
    fs, path = filesystem(url)
    info = _info(url, fs, path)
    state = f"{info.get('size')} {[str(info[key]) for key in _VALIDATORS if key in info]}"
    file = file or home() / _name(url, b"")
    file.parent.mkdir(parents=True, exist_ok=True)
    known = file.with_name(f"{file.name}.state")
    with hold(file.with_name(f".{file.name}.lock"), url, _WAIT_SECONDS):
        if file.exists() and not state.endswith("[]") and known.exists() and known.read_text() == state:
            return file
        partial = file.with_name(f"{file.name}.{hashlib.sha256(state.encode()).hexdigest()[:8]}.fetching")
        _fetch_into(partial, url, fs, path, info.get("size"), on_fetch)
        os.replace(partial, file)
        write_whole(known, state.encode())
    return file


def _fetch_into(
    partial: Path, url: str, fs: fsspec.AbstractFileSystem, path: str, size: int | None, on_fetch: OnFetch | None
) -> None:
    """Completes the file `partial`."""
    on_fetch = on_fetch or (lambda _: None)
    if size is not None and sends_parts(url):
        with partial.open("ab") as out:
            if out.tell() > size:
                out.truncate(0)
            while (start := out.tell()) < size:
                stop = min(start + _BLOCK, size)
                block = _trying(url, lambda start=start, stop=stop: fs.cat_file(path, start=start, end=stop))
                if len(block) != stop - start:
                    raise CacheError(f"{url}: asked for {stop - start} bytes, {len(block)} came. Fetch it otherwise.")
                out.write(block)
                on_fetch(len(block))
    else:
        with partial.open("wb") as out, _trying(url, lambda: fs.open(path, "rb", block_size=0)) as remote:
            while block := _trying(url, lambda: remote.read(_BLOCK), tries=1):
                out.write(block)
                on_fetch(len(block))
    with partial.open("rb") as out:
        os.fsync(out.fileno())  # the note that it is whole comes after it
    if size is not None and partial.stat().st_size != size:
        raise CacheError(f"{url}: {partial.stat().st_size} of {size} bytes came. Run the same command again.")


def in_parallel(run: Callable[[str], Any], names: list[str], n_threads: int = _THREADS) -> list[Any]:
    """What `run` returns of each name; several at once, and none is begun after one has failed."""
    with ThreadPoolExecutor(n_threads) as pool:
        waiting = [pool.submit(run, name) for name in names]
        try:
            return [future.result() for future in waiting]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _info(url: str, fs: fsspec.AbstractFileSystem, path: str) -> Mapping[str, Any]:
    def asked() -> Mapping[str, Any]:
        try:
            return fs.info(path)
        except FileNotFoundError as error:
            # On the web fsspec calls everything not found, with the true reason behind it.
            if error.__cause__ is None or getattr(error.__cause__, "status", None) in (404, 410):
                raise
            raise error.__cause__ from error

    try:
        return _trying(url, asked)
    except FileNotFoundError as error:
        raise CacheError(f"{url}: not found. Check the address.") from error


def _name(url: str, state: bytes) -> str:
    """A name for a local copy, another one for each state of what is at the URL."""
    last = re.sub(r"[^\w.-]", "_", PurePosixPath(url.partition("?")[0]).name)
    return f"{hashlib.sha256(url.encode() + b' ' + state).hexdigest()[:16]}-{last}"


def _trying(url: str, read: Callable[[], Any], tries: int = _TRIES) -> Any:
    """What `read` returns; tried again where the network fails."""
    for attempt in range(tries):
        try:
            return read()
        except (FileNotFoundError, CacheError, zipfile.BadZipFile):
            raise
        except Exception as error:  # every file system has its own
            if attempt == tries - 1 or isinstance(error, PermissionError):
                reason = str(error).strip() or type(error).__name__
                raise CacheError(
                    f"{url}: cannot be read ({reason}). Check the address, the network and your credentials."
                ) from error
            time.sleep(RETRY_SECONDS * 2**attempt)
    raise AssertionError("unreachable")
