"""The settings of stage one; their defaults live here alone."""

from dataclasses import dataclass

from pipeline.errors import TkdError

KEEPS = ("rollout", "layers", "heads")  # the format's; here, because the command line must not wait for it


@dataclass(frozen=True)
class BuildConfig:
    """How a cache is built. `batch_size` changes nothing that is in it but the rounding.

    Raises:
        TkdError: a partition size that the format does not have, no batch size, or a number of views that is none.
    """

    keep: str = "heads"  # attention kept beside the rollout
    batch_size: float = 64.0  # seconds of audio in one forward pass, padding and all; a longer clip is a batch
    bfloat16: bool = False  # the teacher's arithmetic
    with_features: bool = True  # False: a detached cache, for recipients who have the recordings
    partition_size: int = 512  # clips: what an interruption costs at most, and what jobs share out
    views: int = 0  # further renderings of each training clip, each a row of its own
    seed: int = 0  # of the views

    def __post_init__(self) -> None:
        from cache_schema import CHUNK_CLIPS  # not above: the command line's help must not wait for zarr

        size, unit = self.partition_size, CHUNK_CLIPS
        if size > unit and size % unit:
            raise TkdError(f"partition_size {size}: expected a multiple of {unit}, or less than {unit}.")
        if not self.batch_size > 0:
            raise TkdError(f"batch_size {self.batch_size}: expected more than 0 seconds.")
        if self.views:
            from pipeline.data.views import ViewRecipe

            ViewRecipe(self.views, self.seed)  # says what is wrong with them


@dataclass(frozen=True)
class ClusterConfig:
    """The workers of dask.distributed that build a cache: `workers` processes of this machine, or a scheduler's.

    Raises:
        TkdError: not one of the two.
    """

    workers: int = 0
    scheduler: str | None = None  # its address, as in tcp://node1:8786

    def __post_init__(self) -> None:
        if (self.workers > 0) == (self.scheduler is not None):
            raise TkdError(
                f"workers {self.workers}, scheduler {self.scheduler}: expected workers of this machine or a scheduler "
                "that has its own."
            )


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
