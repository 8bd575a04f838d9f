"""The tkd cache: what it holds (FORMAT.md), how it is written, read and checked."""

from cache_schema.convert import convert_cache
from cache_schema.describe import describe_cache
from cache_schema.errors import CacheError
from cache_schema.format.schema import ARRAYS, FORMAT_VERSION, SPLITS, ArraySpec, Layout
from cache_schema.reader import Cache, open_cache
from cache_schema.sharing.diff import diff_caches
from cache_schema.sharing.merge import merge_caches
from cache_schema.sharing.transfer import pull_cache, push_cache
from cache_schema.validate import Problem, validate_cache
from cache_schema.writer import create_cache, finalise, partition_rows, pending_partitions, write_partition

__all__ = [
    "ARRAYS",
    "FORMAT_VERSION",
    "SPLITS",
    "ArraySpec",
    "Cache",
    "CacheError",
    "Layout",
    "Problem",
    "convert_cache",
    "create_cache",
    "describe_cache",
    "diff_caches",
    "finalise",
    "merge_caches",
    "open_cache",
    "partition_rows",
    "pending_partitions",
    "pull_cache",
    "push_cache",
    "validate_cache",
    "write_partition",
]
