"""What a caller hands to the writer: checked against the format, and brought into the form it is stored in."""

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from cache_schema.errors import CacheError
from cache_schema.format.checks import WEIGHTS, Context, metadata_faults, name_faults, value_faults
from cache_schema.format.coding import encode_weights
from cache_schema.format.digest import canonical_json
from cache_schema.format.schema import FORMAT_VERSION, STATE_KEYS, ArraySpec, Layout, required_arrays
from cache_schema.stores.base import numpy_dtype
from cache_schema.stores.working import read_stored
from cache_schema.stores.zarr_store import ZarrStore


def complete_metadata(path: str | os.PathLike, layout: Layout, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The `tkd_cache` attribute of the new cache, as it will read back from JSON.

    Raises:
        CacheError: something is missing, is not JSON, or contradicts the layout.
    """
    try:
        metadata = json.loads(canonical_json(metadata))
    except (TypeError, ValueError) as error:
        raise CacheError(f"{path}: the metadata are not JSON: {error}.") from error
    faults = metadata_faults(metadata, layout)
    faults += [f"tkd_cache.{key}: the writer's own; leave it out." for key in STATE_KEYS if key in metadata]
    if faults:
        raise CacheError(f"{path}: {' '.join(faults)}")
    state = {"format_version": FORMAT_VERSION, "cache_id": None, "complete": False, "layout": vars(layout)}
    return {**state, **metadata}


def stored_rows(
    path: str | os.PathLike, layout: Layout, rows: Mapping[str, np.ndarray], metadata: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """The row arrays in their stored dtypes.

    Raises:
        CacheError: a name, shape, dtype or value is not what the format needs.
    """
    specs = required_arrays(layout, "creation")
    faults = list(name_faults(rows, specs))
    if not faults:
        rows = {name: _cast(path, spec, rows[name], spec.grid(layout).shape) for name, spec in specs.items()}
        context = Context(layout, metadata, rows)
        faults = [fault for name in specs for fault in value_faults(name, rows[name], context)]
    if faults:
        raise CacheError(f"{path}: {' '.join(faults)}")
    return dict(rows)


def stored_partition(
    path: str | os.PathLike,
    store: ZarrStore,
    layout: Layout,
    index: int,
    arrays: Mapping[str, np.ndarray],
    coded: bool,
) -> dict[str, np.ndarray]:
    """The partition's arrays as they are to be stored; `coded` where weights are given as codes already.

    Raises:
        CacheError: a name, shape, dtype or value is not what the format needs.
    """
    where = f"{path}: {layout.place(index)}"
    specs = required_arrays(layout, "partition")
    rows = layout.partition_rows(index)
    known = {name: read_stored(store, name)[rows] for name in ("clip_id", "n_frames")}
    context = Context(layout, store.metadata, known, rows.start)
    faults = list(name_faults(arrays, specs))
    stored = {}
    for name, spec in specs.items() if not faults else ():
        shape = (rows.stop - rows.start, *spec.grid(layout).shape[1:])
        encodes = spec.coding is not None and not coded
        values = _cast(where, spec, arrays[name], shape, encodes)
        faults += value_faults(name, values, context, WEIGHTS if encodes else None)
        stored[name] = encode_weights(values, ~context.beyond(values.ndim), spec.coding) if encodes else values
    if faults:
        raise CacheError(f"{where}: {' '.join(faults)}")
    return stored


def _cast(where: object, spec: ArraySpec, values: Any, shape: tuple[int, ...], encodes: bool = False) -> np.ndarray:
    """The values in the stored dtype; no number or string changes but for the rounding of floats.

    Those that are yet to be encoded stay as they are.
    """
    values = np.asarray(values)
    if values.shape != shape:
        raise CacheError(f"{where}: {spec.name} has shape {values.shape}, must be {shape} ({', '.join(spec.dims)}).")
    floats = spec.dtype == "float16" or encodes
    kinds = "f" if floats else "UOT" if spec.dtype == "string" else "iub"
    if values.dtype.kind not in kinds:
        raise CacheError(f"{where}: {spec.name} has dtype {values.dtype}, cannot be stored as {spec.dtype}.")
    if encodes:
        return values
    try:
        with np.errstate(over="ignore"):  # an infinity is found, and named, by the checks
            # coerce=False: an object array that hides numbers or None is refused, not stringified
            dtype = np.dtypes.StringDType(coerce=False) if spec.dtype == "string" else numpy_dtype(spec)
            stored = values.astype(dtype).astype(numpy_dtype(spec))
    except ValueError as error:  # not a string, or a lone surrogate
        raise CacheError(f"{where}: {spec.name} cannot be stored as {spec.dtype}: {error}.") from error
    if not floats and spec.dtype != "string" and not np.array_equal(stored, values):
        raise CacheError(f"{where}: {spec.name} has values that do not fit into {spec.dtype}.")
    return stored
