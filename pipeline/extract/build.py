"""Stage one: the teacher runs over every clip, and what it says goes into a cache."""

from functools import partial
from pathlib import Path

from cache_schema import write_partition
from pipeline.data.manifest import Manifest
from pipeline.extract.config import BuildConfig, Share
from pipeline.extract.partitions import Built, claim, write_cache
from pipeline.extract.plan import Plan, plan_build
from pipeline.extract.targets import run_teacher
from pipeline.progress import Progress


def build_cache(
    manifest: Manifest,
    teacher_name: str,
    out: Path,
    config: BuildConfig,
    force: bool = False,
    share: Share | None = None,
) -> Built:
    """Runs the teacher over every clip of the manifest, or a share of them, and writes the cache `out`.

    Nothing is run where the same cache is there and complete.

    Raises:
        TkdError: teacher and dataset do not fit, a clip cannot be read or is too short, `out` holds another cache, or
            another job is writing the same.
        CacheError: an unfinished cache of something else is there, or what is there is damaged.
    """
    plan = plan_build(manifest, teacher_name, config)
    return write_cache(out, plan.outline, partial(build_partition, plan, out), "running the teacher", share, force)


def build_partition(plan: Plan, out: Path, index: int, progress: Progress | None = None) -> None:
    """Computes and writes one partition of the unfinished cache, unless it is whole; the unit of stage one's work.

    Any process may call it, for any partition, at any time after `begin`; with a plan of its own, made from the same.

    Raises:
        TkdError: another process is writing the partition, the cache was begun with another plan, or a clip cannot be
            read.
    """
    with claim(out, plan.outline, index) as missing:
        if missing:
            clips = plan.manifest.clips[plan.outline.layout.partition_rows(index)]
            write_partition(out, index, run_teacher(plan, clips, progress))
