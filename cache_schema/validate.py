"""Finding every fault of a finished cache, with its place."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cache_schema.errors import CacheError
from cache_schema.format.checks import Context, metadata_faults, name_faults, value_faults
from cache_schema.format.digest import array_digest
from cache_schema.format.schema import ArraySpec, Layout, required_arrays
from cache_schema.reader import digest_faults
from cache_schema.stores import open_store
from cache_schema.stores.base import ATTRIBUTE, DIGESTS_ATTRIBUTE, Form, Store, numpy_dtype
from cache_schema.stores.working import progress


@dataclass(frozen=True)
class Problem:
    """One fault.

    Attributes:
        place: the array or attribute, and where there is one the partition.
        text: what was found and what must be.
    """

    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


def validate_cache(path: str | os.PathLike) -> list[Problem]:
    """Every problem of the cache; an empty list says that all of FORMAT.md holds and every byte is verified.

    Raises:
        CacheError: nothing is there, or nothing that could be looked into (another format version, no cache).
    """
    store = open_store(path)
    layout = store.layout()
    specs = required_arrays(layout)
    faults = metadata_faults(store.metadata, layout)
    if store.metadata.get("complete") is not True:
        faults.append(f"tkd_cache.complete: {progress(path)}.")
    if others := sorted(set(store.attributes) - {ATTRIBUTE}):
        faults.append(f"{others[0]}: an attribute of the root, must not be there.")
    if store.consolidated:
        faults.append("consolidated_metadata: in the root's zarr.json, must not be there.")
    faults += name_faults(store.array_names() | specs.keys(), specs)  # only those of no layout: the missing come next
    wrong_digests, forms = digest_faults(store, layout)
    faults += wrong_digests
    for name, form in forms.items():
        faults += _form_faults(form, specs[name], layout, store)
    sound = {
        name: form
        for name, form in forms.items()
        if form.dtype == numpy_dtype(specs[name]) and form.shape == specs[name].grid(layout).shape
    }
    faults += _content_faults(store, layout, sound)
    return [Problem(*fault.split(": ", 1)) for fault in faults]


def _form_faults(form: Form, spec: ArraySpec, layout: Layout, store: Store) -> Iterator[str]:
    """What is wrong with how the array is described and laid out."""
    required = store.required_storage(spec, layout)
    pairs: list[tuple[str, Any, Any]] = [
        ("dtype", form.dtype, numpy_dtype(spec)),
        ("dims", form.dims, spec.dims),
        ("shape", form.shape, spec.grid(layout).shape),
        *((what, form.storage.get(what), value) for what, value in required.items()),
        *((f"attribute {key!r}", form.attributes.get(key), value) for key, value in spec.attributes.items()),
    ]
    for what, found, expected in pairs:
        if found != expected:
            yield f"{spec.name}: {what} is {found}, must be {expected}."
    description = form.attributes.get("description")
    if not (isinstance(description, str) and description):
        yield f"{spec.name}: attribute 'description' is {description!r}, must say what the array holds."


def _content_faults(store: Store, layout: Layout, forms: Mapping[str, Form]) -> Iterator[str]:
    """What is wrong with the values of the arrays, read partition by partition."""
    specs, rows = required_arrays(layout), {}
    for name in forms:
        if specs[name].written == "creation":
            try:
                store.refresh(name, slice(None))
                rows[name] = store.read(name)
            except CacheError as error:
                yield f"{name}: {error}."
    whole = Context(layout, store.metadata, rows)
    for name, values in rows.items():
        yield from value_faults(name, values, whole)
    for index in range(layout.n_partitions):
        part = layout.partition_rows(index)
        known = {name: values[part] for name, values in rows.items()}
        for name, values in known.items():
            yield from _digest_fault(forms[name], layout, name, values, index)
        for name in forms:
            if specs[name].written != "partition":
                continue
            try:
                store.refresh(name, part)  # of a URL: what is there counts, not the local copy
                values = store.read(name, part)
            except CacheError as error:
                yield f"{name}, {layout.place(index)}: {error}."
                continue
            yield from _digest_fault(forms[name], layout, name, values, index)
            yield from value_faults(name, values, Context(layout, store.metadata, known, part.start))


def _digest_fault(form: Form, layout: Layout, name: str, values: np.ndarray, index: int) -> Iterator[str]:
    digests = form.attributes.get(DIGESTS_ATTRIBUTE, ())
    if index < len(digests) and array_digest(name, values, form.attributes.get("coding")) != digests[index]:
        yield f"{name}, {layout.place(index)}: missing or altered (wrong digest)."
