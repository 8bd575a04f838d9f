"""The tkd cache: what it holds (FORMAT.md), how it is written, read and checked."""

from cache_schema.convert import convert_cache
from cache_schema.describe import describe_cache
from cache_schema.errors import Busy, CacheError
from cache_schema.format.coding import DELTA_UINT8, decode_weights, encode_weights
from cache_schema.format.differences import differences
from cache_schema.format.digest import audio_sha256
from cache_schema.format.schema import (
    ARRAYS,
    CHUNK_CLIPS,
    FORMAT_VERSION,
    KEEPS,
    SPLITS,
    STATE_KEYS,
    ArraySpec,
    Layout,
)
from cache_schema.jobs import hold_every_share, hold_partition, hold_share
from cache_schema.reader import Cache, open_cache, require_same
from cache_schema.sharing.diff import diff_caches
from cache_schema.sharing.merge import merge_caches
from cache_schema.sharing.transfer import pull_cache, push_cache
from cache_schema.stores.remote import home
from cache_schema.stores.working import begun, clear_leftovers, discard
from cache_schema.validate import Problem, validate_cache
from cache_schema.writer import create_cache, finalise, pending_partitions, write_partition

__all__ = [
    "ARRAYS",
    "CHUNK_CLIPS",
    "DELTA_UINT8",
    "FORMAT_VERSION",
    "KEEPS",
    "SPLITS",
    "STATE_KEYS",
    "ArraySpec",
    "Busy",
    "Cache",
    "CacheError",
    "Layout",
    "Problem",
    "audio_sha256",
    "begun",
    "clear_leftovers",
    "convert_cache",
    "create_cache",
    "decode_weights",
    "describe_cache",
    "diff_caches",
    "differences",
    "discard",
    "encode_weights",
    "finalise",
    "hold_every_share",
    "hold_partition",
    "hold_share",
    "home",
    "merge_caches",
    "open_cache",
    "pending_partitions",
    "pull_cache",
    "push_cache",
    "require_same",
    "validate_cache",
    "write_partition",
]
