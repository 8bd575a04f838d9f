"""Files from the web: resumed when interrupted, used only when their checksum is right."""

import hashlib
import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from pipeline.errors import TkdError
from pipeline.lock import in_turn
from pipeline.progress import Progress, say

WAITS = (1, 2, 5, 15, 30)  # seconds before each further try, counted anew whenever something has arrived
_TIMEOUT = 60  # seconds without a byte
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # answers of a server that is busy or starting
_PIECE = 1 << 20  # bytes


@dataclass(frozen=True)
class RemoteFile:
    """A file at a URL, and how to know it when it is here."""

    url: str
    checksum: str  # algorithm:hex, as in md5:9f4a5c0e..., any algorithm of hashlib
    n_bytes: int | None = None

    @property
    def name(self) -> str:
        """The last part of the URL's path: the file's name here."""
        return PurePosixPath(unquote(urlsplit(self.url).path)).name


class _Passing(Exception):
    """A fault that another try may not meet."""


def download(remote: RemoteFile, folder: Path) -> Path:
    """Returns the path of `remote` in `folder`; what is there with the right checksum is not fetched again.

    It arrives as `<name>.partial` and is renamed when it is whole and its checksum right. Run again after an
    interruption it goes on where that stopped, if the server can send parts; passing faults are waited out, and so is
    another process that fetches it.

    Raises:
        TkdError: the server refuses or cannot be reached, the file has another size or checksum than expected, or the
            disk is too small.
    """
    path = folder / remote.name
    with in_turn(path):
        if path.exists():
            found = _checksum(path, remote)
            if found != remote.checksum:
                raise TkdError(
                    f"{path}: has the checksum {found}, expected {remote.checksum}. Move it away, and it is fetched "
                    f"from {remote.url}."
                )
            return path
        partial = path.with_name(path.name + ".partial")
        resumed = partial.exists()
        found = _fetched(remote, partial, path)
        if found != remote.checksum and resumed:  # the file may have changed since, or its end never reached the disk
            say(f"{remote.url}: what was here did not fit, fetching all of it again")
            found = _fetched(remote, partial, path)
        if found != remote.checksum:
            raise TkdError(
                f"{remote.url}: arrived with the checksum {found}, expected {remote.checksum}; it was thrown away. Try "
                f"again later, or put the right file at {path}."
            )
        os.replace(partial, path)
    return path


def _fetched(remote: RemoteFile, partial: Path, path: Path) -> str:
    """Returns the checksum of the file fetched to `partial`, which is kept only if that is right."""
    with Progress(f"fetching {remote.name}", remote.n_bytes, "B") as progress:
        n_tries, furthest = 0, _size(partial)
        while True:
            try:
                _append(remote, partial, path, progress)
                break
            except _Passing as fault:
                n_tries = 0 if _size(partial) > furthest else n_tries + 1
                furthest = max(furthest, _size(partial))
                if n_tries > len(WAITS):
                    raise TkdError(
                        f"{remote.url}: {fault}. Run the same command again to go on, or put the file at {path}."
                    ) from fault
                wait = WAITS[max(0, n_tries - 1)]
                say(f"{remote.url}: {fault}; trying again in {wait} s")
                time.sleep(wait)
    found = _checksum(partial, remote)
    if found != remote.checksum:
        partial.unlink()
    return found


def _append(remote: RemoteFile, partial: Path, path: Path, progress: Progress) -> None:
    """Fetches what `partial` lacks, or all of it if the server sends no parts."""
    start = _size(partial)
    if start == remote.n_bytes:
        return
    headers = {"User-Agent": "tkd", **({"Range": f"bytes={start}-"} if start else {})}
    try:
        response = urllib.request.urlopen(urllib.request.Request(remote.url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing lies beyond: `partial` is whole, which its checksum tells
            return
        if error.code in _PASSING:
            raise _Passing(f"the server answers {error.code} {error.reason}") from error
        raise TkdError(
            f"{remote.url}: the server answers {error.code} {error.reason}. Fetch the file another way and put it at "
            f"{path}."
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise _Passing(f"cannot be reached ({_reason(error)})") from error
    with response:
        sent = re.fullmatch(r"bytes (\d+)-\d+/.*", response.headers.get("Content-Range", ""))
        start = int(sent[1]) if response.status == 206 and sent and int(sent[1]) == start else 0
        if response.status == 206 and not start:
            partial.unlink(missing_ok=True)  # not the part that was asked for
            raise _Passing("the server sent another part of the file")
        length = response.headers.get("Content-Length")
        n_bytes = start + int(length) if length else remote.n_bytes
        if remote.n_bytes is not None and n_bytes != remote.n_bytes:
            raise TkdError(
                f"{remote.url}: has {n_bytes} bytes, expected {remote.n_bytes}: another file. Put the right one at "
                f"{path}."
            )
        free = shutil.disk_usage(partial.parent).free
        if n_bytes is not None and n_bytes - start > free:
            raise TkdError(
                f"{partial}: {(n_bytes - start) / 1e9:.1f} GB are still to come, {free / 1e9:.1f} GB are free. Free "
                "some space, or set TKD_HOME to a folder on another disk."
            )
        progress.advance(start - progress.done)
        with partial.open("r+b" if start else "wb") as file:
            file.seek(start)
            while piece := _read(response):
                file.write(piece)
                progress.advance(len(piece))
    if n_bytes is not None and _size(partial) != n_bytes:
        raise _Passing(f"the connection ended after {_size(partial)} of {n_bytes} bytes")


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(_PIECE)
    except http.client.IncompleteRead as error:
        raise _Passing("the connection ended early") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Passing(f"the connection broke ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error) or type(error).__name__


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _checksum(path: Path, remote: RemoteFile) -> str:
    """Returns the file's checksum by the algorithm of the remote one, written as it is."""
    algorithm = remote.checksum.partition(":")[0]
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with Progress(f"checking {remote.name}", path.stat().st_size, "B") as progress, path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
            progress.advance(len(piece))
    return f"{algorithm}:{digest.hexdigest()}"
