"""What every container of a cache offers its readers."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cache_schema.errors import CacheError
from cache_schema.format.schema import FORMAT_VERSION, ArraySpec, Layout

ATTRIBUTE = "tkd_cache"
DIGESTS_ATTRIBUTE = "partition_sha256"
STRING = np.dtypes.StringDType()


@dataclass(frozen=True)
class Form:
    """How an array is described and laid out.

    Attributes:
        dtype: of its values in memory.
        shape: its shape.
        dims: the names of its dimensions.
        attributes: what stands beside the data.
        storage: how the container stores it: chunks, checksums.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    dims: tuple[str | None, ...]
    attributes: Mapping[str, Any]
    storage: Mapping[str, Any]


class Store(ABC):
    """One cache in its container, read only; nothing it returns is checked against a digest yet.

    A store can be pickled, and read in a forked process: it opens its files again there.

    Attributes:
        location: its path or URL, for messages.
        container: the suffix of its kind: .zarr, .h5 or .zip.
    """

    location: str | os.PathLike
    container: str

    @property
    @abstractmethod
    def attributes(self) -> Mapping[str, Any]:
        """The attributes of the root."""

    @abstractmethod
    def array_names(self) -> set[str]:
        """The names of the arrays that are there, readable or not."""

    @abstractmethod
    def form(self, name: str) -> Form:
        """How the named array is stored.

        Raises:
            CacheError: it is missing, or its metadata are damaged; the message names neither the cache nor the array.
        """

    @abstractmethod
    def required_storage(self, spec: ArraySpec, layout: Layout) -> Mapping[str, Any]:
        """What `form(spec.name).storage` must be."""

    @abstractmethod
    def read(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        """Stored values of the rows, (clip, ...), not decoded.

        Raises:
            CacheError: the array is missing, or its metadata, a checksum or a file's length are wrong; the message
                names neither the cache nor the array.
        """

    def refresh(self, name: str, rows: slice) -> bool:
        """Drops what is kept locally of these rows; whether reading them again may give something else."""
        return False

    def refetch(self) -> bool:
        """Fetches once more what is kept locally as one file; False where there is none, or after the first time."""
        return False

    @property
    def consolidated(self) -> bool:
        """Whether a second copy of all metadata is there, which readers would believe."""
        return False

    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """Bytes stored, by array; under "" those of no array."""

    @property
    @abstractmethod
    def n_files(self) -> int:
        """Files it consists of."""

    @property
    def metadata(self) -> dict[str, Any]:
        """The `tkd_cache` attribute.

        Raises:
            CacheError: there is none, or it is of another format version.
        """
        metadata = self.attributes.get(ATTRIBUTE)
        if not isinstance(metadata, dict) or "format_version" not in metadata:
            raise CacheError(f"{self.location}: readable, but no cache (it has no attribute {ATTRIBUTE!r}).")
        if metadata["format_version"] != FORMAT_VERSION:
            raise CacheError(
                f"{self.location}: format version {metadata['format_version']}, this tkd reads version "
                f"{FORMAT_VERSION}. Update tkd, or ask whoever made the cache for one of version {FORMAT_VERSION}."
            )
        return metadata

    def layout(self) -> Layout:
        """The layout `tkd_cache` states.

        Raises:
            CacheError: it states none.
        """
        metadata = self.metadata
        try:
            return Layout(**metadata["layout"])
        except (KeyError, TypeError, CacheError) as error:
            raise CacheError(
                f"{self.location}: {ATTRIBUTE}.layout is damaged ({error}). Fetch or build the cache again."
            ) from error


def numpy_dtype(spec: ArraySpec) -> np.dtype:
    """The dtype stored values have in memory."""
    return STRING if spec.dtype == "string" else np.dtype(spec.dtype)
