"""Archives: .tar.gz, .zip, and .zip in parts (x.z01, x.z02, ..., x.zip), taken apart without trusting them."""

import gzip
import io
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from pipeline.errors import TkdError
from pipeline.lock import in_turn
from pipeline.progress import Progress

# What an archive may unpack to: recordings hardly shrink when packed, so one that grows a hundredfold is a trap.
LARGEST_RATIO = 100
HARMLESS = 1 << 30  # bytes that any archive may unpack to
MOST_MEMBERS = 5_000_000

# The end of central directory record (PKWARE's APPNOTE.TXT, 4.3.16): signature, number of this part, of the part where
# the directory starts, entries in this part, entries, bytes of the directory, its offset in its part, bytes of comment.
_END = struct.Struct("<4s4H2LH")
_END_SIGNATURE = b"PK\5\6"
_LONGEST_COMMENT = 0xFFFF
_PIECE = 1 << 20  # bytes
_DAMAGED = (
    *(tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, struct.error),
    *(EOFError, ValueError),  # ValueError: names that are no UTF-8, offsets below zero
)


@dataclass(frozen=True)
class _Member:
    """One entry; `content` is None for a folder. `n_read` is how far the archive is read when it is done."""

    name: str
    n_bytes: int
    content: IO[bytes] | None
    n_read: int


def extract(archive: Path, folder: Path) -> Path:
    """Returns `folder`, with the archive's files in it; if it is there already nothing is done.

    Files are written to `<folder>.partial`, which is renamed when whole. Only plain files and folders are taken, with
    none of their owners, permissions or times.

    Args:
        archive: A .tar.gz or .tgz, or a .zip; of a .zip in parts the last one, the others beside it.
        folder: Where to; its parent exists or is made.

    Raises:
        TkdError: a part is missing, the archive is damaged, holds a link, a device, a name that leads out of the
            folder, or a name twice, or unpacks to more than LARGEST_RATIO times its size or than the disk has free.
    """
    with in_turn(folder):
        if folder.exists():
            return folder
        partial = folder.with_name(folder.name + ".partial")
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir()
        try:
            _extract_all(archive, partial)
        except _DAMAGED as error:
            raise TkdError(f"{archive}: damaged or not the kind of archive its name says ({error}).") from error
        except (NotImplementedError, RuntimeError) as error:  # zipfile, of compression it lacks and of passwords
            raise TkdError(f"{archive}: cannot be unpacked here ({error}). Unpack it with another tool.") from error
        partial.rename(folder)
    return folder


def _extract_all(archive: Path, folder: Path) -> None:
    if archive.name.endswith((".tar.gz", ".tgz")):
        parts, members = [archive], _tar_members
    elif archive.name.endswith(".zip"):
        parts, members = _zip_parts(archive), _zip_members
    else:
        raise TkdError(f"{archive}: expected an archive that ends in .tar.gz, .tgz or .zip.")
    n_packed = sum(part.stat().st_size for part in parts)
    ceiling = max(HARMLESS, LARGEST_RATIO * n_packed)
    n_bytes = n_members = 0
    with Progress(f"unpacking {archive.name}", n_packed, "B") as progress:
        for member in members(parts, folder):
            n_bytes, n_members = n_bytes + member.n_bytes, n_members + 1
            if n_bytes > ceiling or n_members > MOST_MEMBERS:
                raise TkdError(
                    f"{archive}: of {n_packed} bytes, unpacks to {n_members} files of {n_bytes} bytes and more; "
                    f"expected {MOST_MEMBERS} and {ceiling} at most. Do not trust it."
                )
            _write(archive, member, folder)
            progress.advance(member.n_read - progress.done)


def _write(archive: Path, member: _Member, folder: Path) -> None:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\0" in member.name:
        raise TkdError(f"{archive}: {member.name!r} would be written outside of its folder. Do not trust it.")
    path = folder / name
    if member.content is None:
        path.mkdir(parents=True, exist_ok=True)
        return
    free = shutil.disk_usage(folder).free
    if member.n_bytes > free:
        raise TkdError(
            f"{folder}: {member.name} takes {member.n_bytes} bytes, {free} are free. Free some space and run again."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file, member.content as content:
            shutil.copyfileobj(content, file, _PIECE)
    except (FileExistsError, NotADirectoryError) as error:
        raise TkdError(f"{archive}: {member.name} is in it twice, or as file and folder. Do not trust it.") from error
    if path.stat().st_size != member.n_bytes:
        raise TkdError(f"{archive}: damaged, {member.name} ends early.")


def _tar_members(parts: list[Path], _folder: Path) -> Iterator[_Member]:
    (archive,) = parts
    with archive.open("rb") as packed, gzip.open(packed) as unpacked:
        with tarfile.open(fileobj=unpacked, mode="r|") as tar:
            for member in tar:
                if not member.isreg() and not member.isdir():
                    raise TkdError(f"{archive}: {member.name!r} is a link or a device, not a file. Do not trust it.")
                content = tar.extractfile(member) if member.isreg() else None
                yield _Member(member.name, member.size if content else 0, content, packed.tell())
        while unpacked.read(_PIECE):  # to the end, where its checksum is
            pass


def _zip_members(parts: list[Path], folder: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(io.BufferedReader(_Joined(parts), _PIECE)) as archive:
        n_bytes, free = sum(entry.file_size for entry in archive.infolist()), shutil.disk_usage(folder).free
        if free < n_bytes <= LARGEST_RATIO * sum(part.stat().st_size for part in parts):
            raise TkdError(f"{folder}: the files take {n_bytes} bytes, {free} are free. Free some space and run again.")
        entries = archive.infolist() if len(parts) == 1 else _placed(archive, parts)
        n_read = 0
        for entry in entries:
            if entry.external_attr >> 28 not in (0, 4, 8):  # of the Unix mode, if there is one: 4 a folder, 8 a file
                raise TkdError(f"{parts[-1]}: {entry.filename!r} is a link or a device, not a file. Do not trust it.")
            n_read += entry.compress_size
            content = None if entry.is_dir() else archive.open(entry)
            yield _Member(entry.filename, entry.file_size if content else 0, content, n_read)


def _zip_parts(archive: Path) -> list[Path]:
    """Returns the files that make up a .zip, in order; the last one says how many there are."""
    n_before = _end_record(archive)[1]
    parts = [archive.with_suffix(f".z{number:02d}") for number in range(1, n_before + 1)]
    if missing := [part.name for part in parts if not part.is_file()]:
        raise TkdError(
            f"{archive}: is the last of {n_before + 1} parts, missing {', '.join(missing)}. Put them beside it."
        )
    return [*parts, archive]


def _end_record(archive: Path) -> tuple:
    with archive.open("rb") as file:
        file.seek(max(0, archive.stat().st_size - _END.size - _LONGEST_COMMENT))
        tail = file.read()
    found = tail.rfind(_END_SIGNATURE)
    if found < 0 or len(tail) - found < _END.size:
        raise TkdError(f"{archive}: not a .zip, or its end is missing.")
    return _END.unpack_from(tail, found)


def _placed(archive: zipfile.ZipFile, parts: list[Path]) -> Iterator[zipfile.ZipInfo]:
    """Yields the entries of a .zip in parts as entries of its parts joined.

    An entry says in which part it begins and where in that part. zipfile takes the latter for an offset in the whole,
    and moves all entries by as much as the directory lies elsewhere than the end record says.
    """
    moved = archive.start_dir - _end_record(parts[-1])[6]
    for entry in archive.infolist():
        if entry.volume >= len(parts):
            raise zipfile.BadZipFile(f"{entry.filename} in part {entry.volume + 1} of {len(parts)}")
        # A new one: zipfile has noted in the other where it takes the next entry to begin.
        placed = zipfile.ZipInfo(entry.orig_filename, entry.date_time)
        placed.header_offset = entry.header_offset - moved + sum(part.stat().st_size for part in parts[: entry.volume])
        for name in ("flag_bits", "compress_type", "CRC", "compress_size", "file_size", "external_attr"):
            setattr(placed, name, getattr(entry, name))
        yield placed


class _Joined(io.RawIOBase):
    """Files read as if they were one."""

    def __init__(self, parts: list[Path]) -> None:
        self._parts = [(part, part.stat().st_size) for part in parts]
        self._position = 0
        self._open: tuple[Path, IO[bytes]] | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: sum(size for _, size in self._parts)}[whence]
        if base + offset < 0:
            raise OSError(f"seek to {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer) -> int:
        start = self._position
        for part, size in self._parts:
            if start < size:
                if self._open is None or self._open[0] != part:
                    self.close_part()
                    self._open = part, part.open("rb")
                self._open[1].seek(start)
                n_read = self._open[1].readinto(buffer)
                self._position += n_read
                return n_read
            start -= size
        return 0

    def close_part(self) -> None:
        if self._open is not None:
            self._open[1].close()

    def close(self) -> None:
        self.close_part()
        super().close()
