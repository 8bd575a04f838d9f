"""A cache as a Zarr v3 group: a folder, or a .zip of one."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from cache_schema.errors import CacheError
from cache_schema.format.schema import ArraySpec, Layout, required_arrays
from cache_schema.stores.base import ATTRIBUTE, Form, Store


class ZarrStore(Store):
    """A cache in a folder."""

    container = ".zarr"

    def __init__(self, folder: Path, mode: str = "r", location: str | None = None) -> None:
        """Opens the folder; `location` is where it came from, for messages.

        Raises:
            CacheError: it is no Zarr v3 group.
        """
        self.location, self.folder, self.mode = location or folder, folder, mode
        self._opened: tuple[int, zarr.Group] | None = None
        self.group  # noqa: B018  fails here rather than at the first read

    @property
    def group(self) -> zarr.Group:
        """The Zarr group, opened in this process: an open file must not be shared with a forked one."""
        opened = self._opened
        if opened is None or opened[0] != os.getpid():
            try:
                store = self._zarr_store()
                group = zarr.open_group(store, mode=self.mode, zarr_format=3, use_consolidated=False)
            except Exception as error:  # as many as there are storages and ways of damage
                raise CacheError(f"{self.location}: no cache, or a damaged one (no Zarr v3 group: {error}).") from error
            opened = self._opened = os.getpid(), group
        return opened[1]

    def _zarr_store(self) -> Any:
        return self.folder

    @property
    def consolidated(self) -> bool:
        return zarr.open_group(self._zarr_store(), mode="r", zarr_format=3).metadata.consolidated_metadata is not None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_opened": None}

    @property
    def attributes(self) -> Mapping[str, Any]:
        return self.group.attrs

    def array_names(self) -> set[str]:
        return {entry.parent.name for entry in self.folder.glob("*/zarr.json")}

    def array(self, name: str) -> zarr.Array:
        """The Zarr array; raises as `form`."""
        try:
            array = self.group[name]
        except KeyError as error:
            raise CacheError("missing") from error
        except Exception as error:  # as many as there are storages and ways of damage
            raise CacheError(f"its metadata are damaged ({error})") from error
        if not isinstance(array, zarr.Array):
            raise CacheError("not an array")
        return array

    def form(self, name: str) -> Form:
        array = self.array(name)
        codecs = [codec.to_dict()["name"] for codec in array.compressors]
        storage = {"chunks": array.chunks, "shards": array.shards, "last codec": codecs[-1:]}
        return Form(array.dtype, array.shape, array.metadata.dimension_names or (), array.attrs.asdict(), storage)

    def required_storage(self, spec: ArraySpec, layout: Layout) -> Mapping[str, Any]:
        grid = spec.grid(layout)
        return {"chunks": grid.chunks, "shards": grid.shards, "last codec": ["crc32c"]}

    def read(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        array = self.array(name)
        try:
            return np.asarray(array[rows])
        except MemoryError:
            raise
        except Exception as error:  # every codec has its own way of failing on damaged bytes
            raise CacheError(f"cannot be read ({error})") from error

    def sizes(self) -> dict[str, int]:
        sizes: dict[str, int] = {"": 0}
        for file, size in self._file_sizes().items():
            array, _, inside = file.partition("/")
            sizes[array if inside else ""] = sizes.get(array if inside else "", 0) + size
        return sizes

    @property
    def n_files(self) -> int:
        return len(self._file_sizes())

    def _file_sizes(self) -> dict[str, int]:
        """Bytes of each file, by its path in the group."""
        files = (entry for entry in self.folder.rglob("*") if entry.is_file())
        return {file.relative_to(self.folder).as_posix(): file.stat().st_size for file in files}


def create_folder(folder: Path, layout: Layout, metadata: Mapping[str, Any]) -> zarr.Group:
    """A new group with every array of the layout, all of them still empty."""
    group = zarr.create_group(folder, zarr_format=3, attributes={ATTRIBUTE: dict(metadata)})
    # Byte shuffle made float16 features 27 % smaller than zstd alone; strings have no fixed width to shuffle.
    squeeze_numbers, squeeze_strings = BloscCodec(cname="zstd", clevel=5, shuffle="shuffle"), ZstdCodec(level=3)
    # Codes of attention hardly repeat: zstd that looks for repeats makes them 4 % larger, and takes six times as long.
    squeeze_codes = BloscCodec(cname="zstd", clevel=1, shuffle="noshuffle")
    for name, spec in required_arrays(layout).items():
        grid = spec.grid(layout)
        group.create_array(
            name,
            shape=grid.shape,
            chunks=grid.chunks,
            shards=grid.shards,
            dtype=str if spec.dtype == "string" else spec.dtype,
            fill_value=spec.fill,
            # crc32c last: without it zstd and blosc return wrong values from a flipped bit without a word
            compressors=[
                squeeze_codes if spec.coding else squeeze_strings if spec.dtype == "string" else squeeze_numbers,
                Crc32cCodec(),
            ],
            dimension_names=spec.dims,
            attributes={"description": spec.description, **spec.attributes},
            config={"write_empty_chunks": True},  # a file that is not there is always a fault
        )
    return group


def file_names(layout: Layout) -> list[str]:
    """Every file of a finished cache in a folder, by its path in the group; so none need be listed to be fetched."""
    arrays = required_arrays(layout)
    return ["zarr.json", *(file for name in arrays for file in (f"{name}/zarr.json", *array_files(name, layout)))]


def array_files(name: str, layout: Layout, rows: slice = slice(None)) -> list[str]:
    """The files that hold the rows of an array, by their paths in the group."""
    grid = required_arrays(layout)[name].grid(layout)
    start, stop, _ = rows.indices(layout.n_clips)
    first = range(start // grid.shards[0], -(-stop // grid.shards[0])) if grid.shards else (0,)
    return [f"{name}/c/{index}{'/0' * (len(grid.shape) - 1)}" for index in first]


def write_shard(store: ZarrStore, name: str, rows: slice, index: int, values: np.ndarray) -> Path:
    """Writes the shard of partition `index`, whole, whatever was left there; returns its path."""
    shard = store.folder / name / "c" / str(index)
    # zarr reads a shard before it writes any part of it, and fails on one that is damaged
    if shard.is_dir():
        shutil.rmtree(shard)
    else:
        shard.unlink(missing_ok=True)
    store.array(name)[rows] = values
    return shard


def flush(path: Path) -> None:
    """Returns when the file, or everything in the folder, has reached the disk."""
    for entry in (path, *path.rglob("*")):
        descriptor = os.open(entry, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
