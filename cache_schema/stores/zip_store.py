"""A cache as one .zip: the files of the folder, stored as they are, so that it is read without being unpacked."""

import stat
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import zarr.storage

from cache_schema.errors import CacheError
from cache_schema.stores.zarr_store import ZarrStore

SIGNATURE = b"PK\x03\x04"


class ZipStore(ZarrStore):
    """A cache in a .zip file."""

    container = ".zip"

    def __init__(self, path: Path, location: str | None = None) -> None:
        """Opens the file; `location` is where it came from, for messages.

        Raises:
            CacheError: it is damaged, or holds what a packed cache does not.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                self._members = {member.filename: member.file_size for member in archive.infolist()}
                require_plain(location or path, archive.infolist())
        except CacheError:
            raise
        except Exception as error:  # zipfile fails in many ways on damaged headers
            raise CacheError(f"{location or path}: cannot be read as .zip ({error}). Fetch it again.") from error
        super().__init__(path, location=location)

    def _zarr_store(self) -> zarr.storage.ZipStore:
        return zarr.storage.ZipStore(self.folder, mode="r")

    def array_names(self) -> set[str]:
        paths = (PurePosixPath(name) for name in self._members)
        return {path.parts[0] for path in paths if len(path.parts) == 2 and path.name == "zarr.json"}

    def _file_sizes(self) -> dict[str, int]:
        return self._members

    @property
    def n_files(self) -> int:
        return 1


def require_plain(location: object, members: Iterable[zipfile.ZipInfo]) -> None:
    """Returns if an archive holds nothing but files of a cache, uncompressed, under plain relative names.

    What is refused: names that leave the folder, links, encryption, the same name twice, and compression, which a cache
    has inside its own chunks, and behind which an archive can hide far more than its size.

    Raises:
        CacheError: it does not; the entry is named.
    """
    seen = set()
    for member in members:
        path, kind = PurePosixPath(member.filename), stat.S_IFMT(member.external_attr >> 16)
        faults = {
            "has a name that leaves the folder": path.is_absolute() or ".." in path.parts or "\\" in member.filename,
            "is no plain file": member.is_dir() or kind not in (0, stat.S_IFREG),
            "is encrypted": bool(member.flag_bits & 1),
            "is compressed": member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size,
            "is there twice": member.filename in seen,
        }
        for fault, found in faults.items():
            if found:
                raise CacheError(
                    f"{location}: {member.filename!r} {fault}; not an archive made by tkd cache pack. "
                    "Ask for one that is."
                )
        seen.add(member.filename)
