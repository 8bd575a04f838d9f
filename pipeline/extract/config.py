"""The settings of stage one; their defaults live here alone."""

from dataclasses import dataclass

from pipeline.errors import TkdError

KEEPS = ("rollout", "layers", "heads")  # the format's; here, because the command line must not wait for it


@dataclass(frozen=True)
class BuildConfig:
    """How a cache is built. `batch_size` changes nothing that is in it but the rounding.

    Raises:
        TkdError: a partition size that the format does not have.
    """

    keep: str = "heads"  # attention kept beside the rollout
    batch_size: int = 16  # clips in one forward pass
    bfloat16: bool = False  # the teacher's arithmetic
    with_features: bool = True  # False: a detached cache, for recipients who have the recordings
    partition_size: int = 512  # clips: what an interruption costs at most, and what jobs share out

    def __post_init__(self) -> None:
        from cache_schema import CHUNK_CLIPS  # not above: the command line's help must not wait for zarr

        size, unit = self.partition_size, CHUNK_CLIPS
        if size > unit and size % unit:
            raise TkdError(f"partition_size {size}: expected a multiple of {unit}, or less than {unit}.")


@dataclass(frozen=True)
class Share:
    """What one of several jobs writes of a cache: every `n_shares`-th partition.

    Raises:
        TkdError: there is no such share.
    """

    index: int  # 0 to n_shares - 1
    n_shares: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.n_shares:
            raise TkdError(f"share {self}: expected i/n with 0 <= i < n, as in 0/4 to 3/4.")

    def __str__(self) -> str:
        return f"{self.index}/{self.n_shares}"

    def partitions(self, n_partitions: int) -> range:
        """Returns the share's partitions; interleaved, so that no share is of one split alone."""
        return range(self.index, n_partitions, self.n_shares)
