"""Where the teacher looks, map by map: each layer and head of a cache against the events."""

from dataclasses import dataclass

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from cache_schema import Cache
from pipeline.distill.distillation import mixture_shares
from pipeline.errors import TkdError
from pipeline.frames import teacher_grid
from pipeline.measures import measure
from pipeline.report.numbers.records import Record

_MOST_CLIPS = 1000  # a fair sample: rows of a split are in the order of their digests
_ROWS = 64  # decoded at once: of a large teacher's 384 maps, 20 MB


@dataclass(frozen=True)
class Maps:
    """Means over test clips whose event is known.

    Attributes:
        means: Each measure of `measure`, (n_layers, n_heads); one column where heads are not stored.
        n_clips: That were looked at.
    """

    means: dict[str, np.ndarray]
    n_clips: int


def read_maps(cache: Cache, rows: np.ndarray, events: np.ndarray) -> Maps | None:
    """Returns where a cache's stored maps point, on up to a thousand clips; None without stored maps or known events.

    Args:
        cache: The cache, which is read partition by partition.
        rows: (n,) of the clips, ascending.
        events: (n, 2) samples; -1 unknown.
    """
    array = {"heads": "head_weights", "layers": "layer_weights"}.get(cache.layout.keep)
    known = events[:, 0] >= 0
    rows, events = rows[known][:_MOST_CLIPS], events[known][:_MOST_CLIPS]
    if array is None or not len(rows):
        return None
    size = cache.layout.partition_size
    sums: dict[str, np.ndarray] = {}
    for partition in np.unique(rows // size):
        here = rows // size == partition
        codes = cache.read(array, [int(partition)], decode=False)[rows[here] % size]
        n_frames = cache.read("n_frames", [int(partition)])[rows[here] % size]
        for first in range(0, len(codes), _ROWS):
            part = slice(first, first + _ROWS)
            for name, found in _measured(cache, array, codes[part], n_frames[part], events[here][part]).items():
                sums[name] = sums.get(name, 0.0) + found
    return Maps({name: found / len(rows) for name, found in sums.items()}, len(rows))


def read_mixture(record: Record, cache: Cache) -> np.ndarray:
    """Returns the shares of the stored maps in what a run learned to be taught, (n_layers, n_heads), sum 1.

    Args:
        record: A run with `--frame-weights learned`.
        cache: What it was trained from; where it stores no heads, there is one column.

    Raises:
        TkdError: the run's file of them is damaged.
    """
    file, layout = record.path / "distillation.safetensors", cache.layout
    try:
        shares = mixture_shares(load_file(file)["mixture"].double()).numpy()
        return shares.reshape(layout.n_layers, layout.n_heads if layout.keep == "heads" else 1)
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise TkdError(f"{file}: damaged ({str(error).splitlines()[0]}). Train the run again with --force.") from error


def _measured(
    cache: Cache, array: str, codes: np.ndarray, n_frames: np.ndarray, events: np.ndarray
) -> dict[str, np.ndarray]:
    """Sums over clips of each measure, (layer, head)."""
    weights = torch.from_numpy(cache.decode(array, codes))
    weights = weights if weights.ndim == 4 else weights[:, :, None]  # (clip, layer, head, frame)
    n_maps, shape = weights.shape[1] * weights.shape[2], weights.shape[1:3]
    lengths, start, stop = (
        torch.from_numpy(np.repeat(values.astype(np.int64), n_maps)) for values in (n_frames, *events.T)
    )
    rate = cache.metadata["teacher"]["sample_rate"]
    found = measure(weights.flatten(0, 2), lengths, teacher_grid(cache.metadata), start, stop, rate)
    return {name: values.double().reshape(-1, *shape).sum(dim=0).numpy() for name, values in found.items()}
