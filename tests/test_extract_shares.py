"""Stage one in several jobs: shares of one cache, the locks between them, and who holds a lock."""

import dataclasses
import os
import resource
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from itertools import chain

import pytest
from test_extract_build import LABELS, files_of, recorded
from test_teacher_model import tiny_folder
from test_teacher_training import command

import pipeline.extract.partitions
from cache_schema import CacheError, describe_cache, merge_caches, pending_partitions
from cache_schema.lock import hold, only_one
from pipeline.data.manifest import Manifest
from pipeline.errors import TkdError
from pipeline.extract.build import build_cache, build_partitions
from pipeline.extract.config import BuildConfig, Share
from pipeline.extract.partitions import _finalise_if_whole, begin, claim
from pipeline.extract.plan import plan_build

CONFIG = BuildConfig(partition_size=4)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Manifest:
    """Eighteen clips: five partitions."""
    return recorded(tmp_path_factory.mktemp("shares") / "data", [2400] * 18)


@pytest.fixture(scope="module")
def teacher(data) -> str:
    return str(tiny_folder(data.root.parent / "t", LABELS))


@pytest.fixture(scope="module")
def whole(data, teacher):
    """The cache built in one go."""
    out = data.root.parent / "whole.zarr"
    build_cache(data, teacher, out, CONFIG)
    return out


def build(data, teacher, out, *more):
    return command(
        "cache", "build", "--data", data.root, "--teacher", teacher, "--partition-size", 4, "--out", out, *more
    )


@pytest.mark.parametrize("n_shares", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("n_partitions", [1, 5, 16])
def test_shares_are_disjoint_and_together_everything(n_shares, n_partitions):
    shares = [list(Share(i, n_shares).partitions(n_partitions)) for i in range(n_shares)]
    assert sorted(chain.from_iterable(shares)) == list(range(n_partitions))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 1, 2, 0)], ids=str)
def test_shares_in_any_order_make_the_cache_of_one_build_and_the_last_completes_it(
    data, teacher, whole, tmp_path, order
):
    out, done = tmp_path / "c.zarr", set()
    for share in order:
        done |= {*Share(share, 3).partitions(5)}
        result = build(data, teacher, out, "--partition", f"{share}/3")
        assert result.exit_code == 0, result.stderr
        if len(done) < 5:
            assert result.stdout == (
                f"{out}: {len(done)} of 5 partitions are done. Run the other shares, too: with this --out the last one "
                "completes the cache; those with an --out of their own are joined by tkd cache merge.\n"
            )
            assert not out.exists()
    cache_id = describe_cache(whole)["cache_id"]
    assert result.stdout == f"{out}: complete, cache_id {cache_id}\n"
    assert files_of(out) == files_of(whole)
    assert [entry.name for entry in tmp_path.glob("[!.]*")] == ["c.zarr"]
    assert build(data, teacher, out, "--partition", "1/3").stdout == f"{out}: complete already, cache_id {cache_id}\n"


def test_more_shares_than_partitions(data, teacher, whole, tmp_path):
    for index in range(7):
        built = build_cache(data, teacher, tmp_path / "c.zarr", CONFIG, share=Share(index, 7))
        assert (built.cache_id is not None) == (index >= 4) and built.already == (index > 4)
    assert files_of(tmp_path / "c.zarr") == files_of(whole)


def test_shares_of_separate_machines_are_merged_to_the_same_cache(data, teacher, whole, tmp_path):
    for index in range(2):
        built = build_cache(data, teacher, tmp_path / f"part{index}.zarr", CONFIG, share=Share(index, 2))
        assert (built.cache_id, built.n_done, built.n_partitions) == (None, 3 - index, 5)
    merge_caches([tmp_path / "part0.zarr", tmp_path / "part1.zarr"], tmp_path / "c.zarr")
    assert files_of(tmp_path / "c.zarr") == files_of(whole)


def test_any_process_may_write_any_partition_once_the_cache_is_begun(data, teacher, whole, tmp_path):
    out = tmp_path / "c.zarr"
    plan = plan_build(data, teacher, CONFIG)
    with only_one(out):
        begin(out, plan.outline, force=False)
    for indices in ((3, 0), (3,)):
        build_partitions(plan, out, indices)
    assert pending_partitions(out) == [1, 2, 4]
    with pytest.raises(TkdError, match=r"c.zarr: begun with something else: pooling.arithmetic is 'float32'"):
        build_partitions(plan_build(data, teacher, dataclasses.replace(CONFIG, bfloat16=True)), out, (1,))
    assert pending_partitions(out) == [1, 2, 4]
    build_cache(data, teacher, out, CONFIG)
    assert files_of(out) == files_of(whole)


@pytest.mark.parametrize("more", [(), ("--partition", "1/2"), ("--partition", "3/4")], ids=str)
def test_a_partition_that_another_job_writes_is_left_to_it(data, teacher, tmp_path, more):
    out = tmp_path / "c.zarr"
    build_cache(data, teacher, out, CONFIG, share=Share(0, 2))
    with claim(out, plan_build(data, teacher, CONFIG).outline, 3) as missing:
        assert missing
        result = build(data, teacher, out, *more)
        assert result.exit_code == 1
        assert f"{out}, partition 3: being written by pid {os.getpid()} on " in result.stderr
        assert 3 in pending_partitions(out)
    result = build(data, teacher, out, *more)
    assert result.exit_code == 0
    assert out.exists() == (more != ("--partition", "3/4"))


def test_a_partition_that_a_lost_worker_still_holds_is_waited_for(data, teacher, whole, tmp_path):
    out = tmp_path / "c.zarr"
    build_cache(data, teacher, out, CONFIG, share=Share(0, 2))
    plan = plan_build(data, teacher, CONFIG)
    with ExitStack() as held:
        held.enter_context(claim(out, plan.outline, 3))
        with pytest.raises(CacheError, match=f"partition 3: being written by pid {os.getpid()} "):
            build_partitions(plan, out, (1, 3), wait_seconds=0.1)
        assert pending_partitions(out) == [3], "what was computed before is written"
        threading.Timer(0.7, held.pop_all().close).start()
        build_partitions(plan, out, (3,), wait_seconds=30)
    assert pending_partitions(out) == []


def test_a_share_waits_for_who_finalises_however_long_that_takes(data, teacher, whole, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pipeline.extract.partitions, "WAIT_SECONDS", 0.1)
    out = tmp_path / "c.zarr"
    build_cache(data, teacher, out, CONFIG, share=Share(0, 2))
    build_partitions(plan_build(data, teacher, CONFIG), out, (1, 3))
    with ExitStack() as held:
        held.enter_context(only_one(out))
        threading.Timer(1, held.pop_all().close).start()
        built = _finalise_if_whole(out, 5)
    assert built.cache_id == describe_cache(whole)["cache_id"]
    assert "waiting for another process" in capsys.readouterr().err


def test_a_share_waits_for_who_begins_but_not_for_ever(data, teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline.extract.partitions, "WAIT_SECONDS", 0.3)
    with only_one(tmp_path / "c.zarr"), pytest.raises(CacheError, match=r"c.zarr: being written by pid \d+ on"):
        build_cache(data, teacher, tmp_path / "c.zarr", CONFIG, share=Share(0, 2))
    build_cache(data, teacher, tmp_path / "c.zarr", CONFIG, share=Share(0, 2))


def test_one_share_is_done_by_one_job_and_no_force_takes_its_store_away(data, teacher, whole, tmp_path):
    out = tmp_path / "c.zarr"
    build_cache(data, teacher, out, CONFIG, share=Share(0, 2))
    with hold(tmp_path / "c.zarr.partial" / "partitions" / "0-of-2.lock", "the first job"):
        for more, expected in (
            (("--partition", "0/2"), f"{out}, share 0/2: being written by pid {os.getpid()} "),
            (("--keep", "rollout"), "begun with something else: layout.keep was 'heads', is 'rollout'"),
            (("--keep", "rollout", "--force"), f"{out}: being written by pid {os.getpid()} "),
        ):
            result = build(data, teacher, out, *more)
            assert result.exit_code == 1 and expected in result.stderr, result.stderr
        assert pending_partitions(out) == [1, 3]
        assert build(data, teacher, out, "--partition", "1/2", "--force").exit_code == 0
    assert files_of(out) == files_of(whole)


def test_a_large_unfinished_cache_is_thrown_away_with_few_files_open(data, teacher, tmp_path):
    out = tmp_path / "c.zarr"
    build_cache(data, teacher, out, CONFIG, share=Share(0, 2))
    locks = tmp_path / "c.zarr.partial" / "partitions"
    for index in range(300):
        (locks / f"{index:05d}.lock").touch()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with hold(locks / "00299.lock", "its partition"):
            result = build(data, teacher, out, "--keep", "rollout", "--force")
            assert result.exit_code == 1 and f"{out}: being written by pid {os.getpid()} " in result.stderr
        assert build(data, teacher, out, "--keep", "rollout", "--force").exit_code == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("share", ["2/2", "-1/2", "0/0", "1", "a/b", "1/2/3", "0.5/2", ""])
def test_a_share_that_is_none_is_a_usage_error(data, teacher, tmp_path, share):
    result = build(data, teacher, tmp_path / "c.zarr", "--partition", share)
    assert (result.exit_code, result.stdout) == (2, "") and result.stderr.startswith("Usage:")
    assert "i/n" in result.stderr
    assert list(tmp_path.iterdir()) == []


HOLDER = (
    "import pathlib, sys, time; from cache_schema.lock import only_one\nwith only_one(pathlib.Path(sys.argv[1])):\n"
)


def test_a_lock_names_its_holder_and_is_free_as_soon_as_that_one_is_killed(tmp_path):
    out = tmp_path / "new" / "c.zarr"
    program = [sys.executable, "-c", f"{HOLDER}    print('held', flush=True); time.sleep(60)", str(out)]
    holder = subprocess.Popen(program, stdout=subprocess.PIPE)
    try:
        holder.stdout.readline()
        named = (
            rf"c.zarr: being written by pid {holder.pid} on \S+ since [\d-]+ \d\d:\d\d \S+ \(-c {out}\). Wait for it"
        )
        with pytest.raises(CacheError, match=named), only_one(out):
            pass
        with pytest.raises(CacheError, match=named), only_one(out, wait_seconds=0.3):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    with only_one(out):
        mine = (tmp_path / "new" / ".c.zarr.lock").read_text()
    assert mine.startswith(f"pid {os.getpid()} on ") and mine.count("pid") == 1
    assert (tmp_path / "new" / ".c.zarr.lock").read_text() == ""


def test_a_waiting_process_gets_the_lock_when_it_is_let_go(tmp_path):
    out = tmp_path / "c.zarr"
    program = [sys.executable, "-c", f"{HOLDER}    print('held', flush=True); time.sleep(0.5)", str(out)]
    with subprocess.Popen(program, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        with only_one(out, wait_seconds=30):
            assert out.with_name(".c.zarr.lock").read_text().startswith(f"pid {os.getpid()} ")
