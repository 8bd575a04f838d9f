"""The settings of stage one; their defaults live here alone."""

from dataclasses import dataclass

KEEPS = ("rollout", "layers", "heads")


@dataclass(frozen=True)
class BuildConfig:
    """How a cache is built. Only `keep` and `bfloat16` change what is in it, but for rounding."""

    keep: str = "heads"  # attention kept beside the rollout
    batch_size: int = 16  # clips in one forward pass
    bfloat16: bool = False  # the teacher's arithmetic
