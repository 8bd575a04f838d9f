"""A cache as one HDF5 file: the same arrays, attributes as JSON text, dimension names as labels, too."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cache_schema.errors import CacheError
from cache_schema.format.schema import CHUNK_CLIPS, ArraySpec, Layout
from cache_schema.stores.base import STRING, Form, Store

SIGNATURE = b"\x89HDF\r\n\x1a\n"


class Hdf5Store(Store):
    """A cache in an HDF5 file."""

    container = ".h5"

    def __init__(self, path: Path, location: str | None = None) -> None:
        """Opens the file; `location` is where it came from, for messages.

        Raises:
            CacheError: it is no HDF5 file, or a damaged one.
        """
        self.location, self.path = location or path, path
        self._opened: tuple[int, h5py.File] | None = None
        self.attributes  # noqa: B018  fails here rather than at the first read

    @property
    def file(self) -> h5py.File:
        """The file, opened in this process: a handle must not be shared with a forked one."""
        opened = self._opened
        if opened is None or opened[0] != os.getpid():
            try:
                opened = self._opened = os.getpid(), h5py.File(self.path, "r")
            except (OSError, RuntimeError) as error:
                raise CacheError(f"{self.location}: cannot be read as HDF5 ({error}). Fetch it again.") from error
        return opened[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_opened": None}

    @property
    def attributes(self) -> Mapping[str, Any]:
        try:
            return _json_attributes(self.file)
        except CacheError as error:
            raise CacheError(f"{self.location}: damaged ({error}). Fetch it again.") from error

    def array_names(self) -> set[str]:
        try:
            return set(self.file)
        except (OSError, RuntimeError, ValueError) as error:
            raise CacheError(f"{self.location}: cannot be listed ({error}).") from error

    def _dataset(self, name: str) -> h5py.Dataset:
        try:
            dataset = self.file[name]
        except KeyError as error:
            raise CacheError(f"missing, or damaged ({error})") from error
        except (OSError, RuntimeError, ValueError, TypeError) as error:
            raise CacheError(f"its metadata are damaged ({error})") from error
        if not isinstance(dataset, h5py.Dataset):
            raise CacheError("not an array")
        return dataset

    def form(self, name: str) -> Form:
        dataset = self._dataset(name)
        try:
            is_string, attributes = h5py.check_string_dtype(dataset.dtype) is not None, _json_attributes(dataset)
            return Form(
                STRING if is_string else dataset.dtype,
                dataset.shape,
                tuple(attributes.pop("dimension_names")),
                attributes,
                {"chunks": dataset.chunks, "fletcher32": dataset.fletcher32},
            )
        except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
            raise CacheError(f"its metadata are damaged ({error})") from error

    def required_storage(self, spec: ArraySpec, layout: Layout) -> Mapping[str, Any]:
        return {"chunks": _chunks(spec, layout), "fletcher32": True}

    def read(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        dataset = self._dataset(name)
        try:
            values = dataset[rows]
            return _strings(values) if values.dtype.kind == "S" else values
        except MemoryError:
            raise
        except Exception as error:  # what the library says of damaged bytes has many types
            raise CacheError(f"cannot be read ({error})") from error

    def sizes(self) -> dict[str, int]:
        arrays = {name: self._dataset(name).id.get_storage_size() for name in self.array_names()}
        return {**arrays, "": self.path.stat().st_size - sum(arrays.values())}

    @property
    def n_files(self) -> int:
        return 1


def create_array(file: h5py.File, spec: ArraySpec, layout: Layout, width: int) -> None:
    """Makes an empty array in a file that is open for writing.

    Args:
        file: The file.
        spec: Which array.
        layout: The sizes.
        width: Bytes of the longest string; not used for numbers.
    """
    # The features shrink by a fifth, and reading them takes eight times as long; the rest is small.
    squeeze = {} if spec.name == "features" else {"shuffle": True, "compression": "gzip"}
    is_string = spec.dtype == "string"
    dataset = file.create_dataset(
        spec.name,
        shape=spec.grid(layout).shape,
        # Of fixed width: strings of variable length lie outside the chunks, where no checksum covers them.
        dtype=h5py.string_dtype(length=max(1, width)) if is_string else spec.dtype,
        chunks=_chunks(spec, layout),
        fillvalue=None if is_string else spec.fill,
        fletcher32=True,
        **squeeze,
    )
    for axis, name in enumerate(spec.dims):
        dataset.dims[axis].label = name
    for name, value in {"dimension_names": spec.dims, "description": spec.description, **spec.attributes}.items():
        set_attribute(dataset, name, value)


def set_attribute(node: h5py.File | h5py.Dataset, name: str, value: Any) -> None:
    """Writes an attribute, as the text of its JSON; of fixed length, which lies where a checksum covers it."""
    text = json.dumps(value, ensure_ascii=False).encode()
    node.attrs.create(name, np.bytes_(text), dtype=h5py.string_dtype(length=len(text)))


def write_values(file: h5py.File, name: str, rows: slice, values: np.ndarray) -> None:
    """Writes stored values of the rows, (clip, ...)."""
    is_string = isinstance(values.dtype, np.dtypes.StringDType)
    dataset = file[name]
    dataset[rows] = np.array([text.encode() for text in values], dataset.dtype) if is_string else values


def width_of(values: np.ndarray) -> int:
    """Bytes of the longest string; 0 for numbers."""
    is_string = isinstance(values.dtype, np.dtypes.StringDType)
    return max((len(text.encode()) for text in values), default=0) if is_string else 0


def _chunks(spec: ArraySpec, layout: Layout) -> tuple[int, ...]:
    first, *rest = spec.grid(layout).shape
    return (min(CHUNK_CLIPS, layout.partition_size, first) if spec.written == "partition" else first, *rest)


def _json_attributes(node: h5py.File | h5py.Dataset) -> dict[str, Any]:
    """The attributes from their JSON. HDF5's own, of dimension labels, is left out: its strings are of variable length,
    which no checksum covers, and the library can hang or abort on them when they are damaged.
    """
    try:
        return {name: json.loads(bytes(node.attrs[name])) for name in node.attrs if not name.startswith("DIMENSION_")}
    except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise CacheError(f"an attribute is not JSON: {error}") from error


def _strings(values: np.ndarray) -> np.ndarray:
    return np.array([text.decode() for text in values], STRING)
