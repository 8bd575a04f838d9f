"""Which of a cache's frame weights a student is taught, chosen at stage two."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.errors import TkdError

if TYPE_CHECKING:  # the settings are read by every command's help
    from cache_schema import Cache

CONTROLS = ("uniform", "shuffled", "event")
EXPECTED = "rollout, layers:2,3, layers:all, heads:3.0,3.2, heads:all, learned, uniform, shuffled or event"


@dataclass(frozen=True)
class FrameWeights:
    """A choice of frame weights.

    Attributes:
        kind: `rollout`: attention rollout (arXiv 2005.00928), the paper's. `layers`, `heads`: the mean of the chosen
            maps' column means. `learned`: a mixture of all stored maps, learned with the student. And three controls
            that tell whether it is the teacher that helps: `uniform`: all frames alike; `shuffled`: the rollout of
            another clip of the batch, all frames alike for one alone in it; `event`: the event itself, where it is
            known, and all frames alike where not.
        chosen: (layer,) or (layer, head) of each chosen map, counted from 0; empty: all.
    """

    kind: Literal["rollout", "layers", "heads", "learned", "uniform", "shuffled", "event"]
    chosen: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def parse(cls, text: str) -> "FrameWeights":
        """Returns the choice that `--frame-weights` names.

        Raises:
            TkdError: it names none.
        """
        kind, colon, rest = text.partition(":")
        if not colon and kind in ("rollout", "learned", *CONTROLS):
            return cls(kind)
        number = {"layers": r"\d+", "heads": r"\d+\.\d+"}.get(kind)
        if number and rest == "all":
            return cls(kind)
        if number and re.fullmatch(f"{number}(,{number})*", rest):
            return cls(kind, tuple(tuple(map(int, one.split("."))) for one in rest.split(",")))
        raise TkdError(f"frame weights {text!r}: expected {EXPECTED} (LAYER.HEAD, counted from 0).")

    def require(self, cache: "Cache") -> None:
        """Checks that a cache holds what is chosen.

        Raises:
            TkdError: it does not.
        """
        layout = cache.layout
        needed = {"layers": ("layers", "heads"), "learned": ("layers", "heads"), "heads": ("heads",)}.get(self.kind)
        if needed and layout.keep not in needed:
            raise TkdError(
                f"{cache.path}: keeps no weights by {'head' if self.kind == 'heads' else 'layer'}, which frame weights "
                f"{self.kind} need. Build it with --keep {needed[-1]}, or train with --frame-weights rollout."
            )
        sizes = (layout.n_layers, layout.n_heads)
        for one in self.chosen:
            if any(index >= size for index, size in zip(one, sizes, strict=False)):
                raise TkdError(
                    f"{cache.path}: has no {self.kind.removesuffix('s')} {'.'.join(map(str, one))}; its teacher has "
                    f"{layout.n_layers} layers of {layout.n_heads} heads, counted from 0."
                )

    def array(self, cache: "Cache") -> str:
        """Returns the array of the cache that is read."""
        if self.kind not in ("layers", "heads", "learned"):
            return "rollout"
        return "head_weights" if cache.layout.keep == "heads" else "layer_weights"

    def n_maps(self, cache: "Cache") -> int:
        """Returns how many weights a frame has: one, or all stored maps where their mixture is learned."""
        if self.kind != "learned":
            return 1
        return cache.layout.n_layers * (cache.layout.n_heads if cache.layout.keep == "heads" else 1)

    def read(self, cache: "Cache", partition: int) -> np.ndarray:
        """Returns the weights of a partition's clips, (clip, n_maps, frame), float16 of sum 1 or float32.

        Raises:
            CacheError: they are missing, damaged or altered.
        """
        maps = cache.read(self.array(cache), [partition])
        if self.kind == "layers" and maps.ndim == 4:
            maps = maps.mean(axis=2)  # (clip, layer, frame)
        if self.kind in ("layers", "heads"):
            if self.chosen:
                return np.mean([maps[:, *one] for one in self.chosen], axis=0)[:, None]
            return maps.mean(axis=tuple(range(1, maps.ndim - 1)))[:, None]
        return maps.reshape(len(maps), -1, maps.shape[-1])
