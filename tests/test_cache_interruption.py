"""Whatever stops a build, running it again makes the same cache, and nothing half-made looks complete."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
from cache_builder import build, metadata, partition, rows, sizes

from cache_schema import (
    CacheError,
    clear_leftovers,
    create_cache,
    describe_cache,
    finalise,
    hold_share,
    open_cache,
    pending_partitions,
    validate_cache,
    write_partition,
)
from cache_schema.stores.hdf5_store import set_attribute

LAYOUT = sizes(keep="layers")


def begin(path, layout=LAYOUT, given=None, force=False):
    return create_cache(path, layout, rows(layout), given or metadata(layout), force)


def test_a_stopped_build_continues_with_what_is_missing(tmp_path):
    path = tmp_path / "kws.zarr"
    begin(path)
    write_partition(path, 1, partition(LAYOUT, 1))
    begin(path)
    assert pending_partitions(path) == [0, 2]
    assert build(path, LAYOUT)[1] == build(tmp_path / "other.zarr", LAYOUT)[1]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["kws.zarr", "other.zarr"]


@pytest.mark.parametrize("name", ["label", "event_start"])
def test_a_row_array_that_vanished_before_the_end_is_not_sealed(tmp_path, name):
    """Zarr reads a file that is not there as the fill value, without a word."""
    path = tmp_path / "kws.zarr"
    folder = begin(path)
    for index in range(LAYOUT.n_partitions):
        write_partition(path, index, partition(LAYOUT, index))
    shutil.rmtree(folder / name / "c")
    with pytest.raises(CacheError, match=f"{name}.*Start afresh"):
        finalise(path)
    assert not path.exists()


def test_a_share_goes_on_after_finalise_was_cut_off_without_its_records(tmp_path):
    path = tmp_path / "kws.zarr"
    folder = begin(path)
    for index in range(LAYOUT.n_partitions):
        write_partition(path, index, partition(LAYOUT, index))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("cache_schema.writer.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        finalise(path)
    assert not (folder / "partitions").exists()
    begin(path)
    with hold_share(path, 0, 2):
        assert pending_partitions(path) == []
    finalise(path)
    assert validate_cache(path) == []


def test_a_link_of_the_name_is_replaced_and_what_it_leads_to_stays(tmp_path):
    (tmp_path / "big").mkdir()
    build(tmp_path / "big" / "kws.zarr", LAYOUT)
    path = tmp_path / "kws.zarr"
    path.symlink_to(tmp_path / "big" / "kws.zarr")
    for _ in range(2):
        begin(path, force=True)
        for index in range(LAYOUT.n_partitions):
            write_partition(path, index, partition(LAYOUT, index))
        finalise(path)
        assert validate_cache(path) == [] and not path.is_symlink()
    assert validate_cache(tmp_path / "big" / "kws.zarr") == []


def test_finalise_lists_every_missing_partition_and_stops(tmp_path):
    path = tmp_path / "kws.zarr"
    begin(path)
    write_partition(path, 1, partition(LAYOUT, 1))
    with pytest.raises(CacheError, match=r"2 of 3 partitions are missing: 0, 2. Run the same tkd cache build again"):
        finalise(path)
    assert not path.exists()


def test_another_teacher_or_other_rows_do_not_continue_a_build(tmp_path):
    path, given = tmp_path / "kws.zarr", metadata(LAYOUT)
    begin(path)
    write_partition(path, 1, partition(LAYOUT, 1))
    other = {**given, "teacher": {**given["teacher"], "name": "other"}}
    with pytest.raises(
        CacheError, match=r"begun with something else: teacher.name was 'tiny/maître', is 'other'. --force"
    ):
        begin(path, given=other)
    changed = rows(LAYOUT)
    changed["label"] = changed["label"][::-1].copy()
    with pytest.raises(CacheError, match=r"begun with something else: other label. --force starts afresh"):
        create_cache(path, LAYOUT, changed, given)
    with pytest.raises(CacheError, match=r"layout.n_frames was 9, is 12"):
        begin(path, sizes(keep="layers", n_frames=12))
    assert pending_partitions(path) == [0, 2]
    begin(path, given=other, force=True)
    assert pending_partitions(path) == [0, 1, 2]


def test_a_finished_cache_is_replaced_only_by_force_and_only_by_a_whole_one(tmp_path):
    path, given = tmp_path / "kws.zarr", metadata(LAYOUT)
    _, old = build(path, LAYOUT)
    with pytest.raises(CacheError, match=r"kws.zarr: already there and complete; --force rebuilds it"):
        begin(path)
    other = {**given, "teacher": {**given["teacher"], "sha256": "c" * 64}}
    begin(path, given=other, force=True)
    write_partition(path, 0, partition(LAYOUT, 0))
    assert open_cache(path).metadata["cache_id"] == old
    begin(path, given=other, force=True)
    assert pending_partitions(path) == [1, 2]
    _, new = build(path, LAYOUT, other, force=True)
    assert open_cache(path).metadata["cache_id"] == new != old
    assert [entry.name for entry in tmp_path.iterdir()] == ["kws.zarr"]


def test_force_never_replaces_what_is_no_cache(tmp_path):
    (tmp_path / "home.zarr").mkdir()
    (tmp_path / "home.zarr" / "thesis.txt").write_text("years of work")
    with pytest.raises(CacheError, match=r"home.zarr: no cache, or a damaged one"):
        begin(tmp_path / "home.zarr", force=True)


def test_records_are_readable_by_those_who_may_read_the_cache(tmp_path):
    folder = begin(tmp_path / "kws.zarr")
    write_partition(tmp_path / "kws.zarr", 1, partition(LAYOUT, 1))
    modes = {(folder / name).stat().st_mode for name in ("partitions/00001.json", "zarr.json")}
    assert len(modes) == 1


def test_an_incomplete_cache_that_is_no_working_store_is_called_so(tmp_path):
    path, _ = build(tmp_path / "kws.h5", LAYOUT)
    with h5py.File(path, "r+") as file:
        attribute = json.loads(file.attrs["tkd_cache"])
        set_attribute(file, "tkd_cache", {**attribute, "complete": False})
    with pytest.raises(CacheError, match=r"kws.h5: unfinished, not all of it is there; ask whoever made it"):
        open_cache(path)
    assert "tkd_cache.complete: not all of it is there; ask whoever" in "\n".join(map(str, validate_cache(path)))
    with h5py.File(path, "r+") as file:
        del file["logits"]
    with pytest.raises(CacheError, match=r"kws.h5: logits: missing. List every fault"):
        describe_cache(path)


def test_a_cache_that_appears_meanwhile_is_not_replaced(tmp_path):
    path = tmp_path / "kws.zarr"
    begin(path)
    for index in range(3):
        write_partition(path, index, partition(LAYOUT, index))
    build(tmp_path / "other.zarr", LAYOUT)[0].rename(path)
    with pytest.raises(CacheError, match=r"already there and complete; --force replaces it"):
        finalise(path)


def test_a_damaged_shard_of_a_stopped_writer_is_rewritten(tmp_path):
    path = tmp_path / "kws.zarr"
    folder = begin(path)
    write_partition(path, 1, partition(LAYOUT, 1))
    (folder / "rollout" / "c" / "1" / "0").write_bytes(b"torn")
    (folder / "partitions" / "00001.json").unlink()
    assert build(path, LAYOUT)[1] == build(tmp_path / "other.zarr", LAYOUT)[1]


STEPS = ("os.rename", "os.mkdir", "os.remove", "os.rmdir")


def build_until(path, given, force, limit=None):
    """Builds in a forked process that kills itself with SIGKILL at its step number `limit` on the file system.

    Returns:
        The steps of the whole build; the message it was refused with; None where the process was killed.
    """
    return run_until(path, limit, lambda: build(path, LAYOUT, given, force=force))


def run_until(path, limit, run):
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        steps = 0

        def count(event, args):
            nonlocal steps
            if event in STEPS or (event == "open" and str(path) in str(args[0]) and "r" not in str(args[1])):
                steps += 1
                if steps == limit:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        try:
            run()
            os.write(writer, str(steps).encode())
        except CacheError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    status = os.waitpid(child, 0)[1]
    with open(reader, "rb") as pipe:
        said = pipe.read().decode()
    if os.WIFSIGNALED(status):
        return None
    return int(said) if said.isdigit() else said


def under_fire(root, seed, force):
    """Kills builds at many moments and prints for each what was seen; runs in an interpreter without threads."""
    old, new = metadata(LAYOUT), {**metadata(LAYOUT), "pooling": {"of": "the new one"}}
    n_steps = build_until(root / "whole.zarr", new, False)
    rng = random.Random(seed)
    moments = sorted({*rng.sample(range(1, n_steps), 8), *range(n_steps - 6, n_steps + 8)})
    if force:
        build_until(root / "old.zarr", old, False)
    for moment in moments:
        path = root / f"{moment}.zarr"
        if force:
            shutil.copytree(root / "old.zarr", path)
        first = build_until(path, new, force, moment)
        old_or_new = path if path.exists() else Path(f"{path}.discarded")
        if old_or_new.exists():
            shutil.copytree(old_or_new, root / f"{moment}-seen.zarr")
        second = build_until(path, new, force, rng.randrange(1, n_steps))  # killed again, somewhere else
        third = build_until(path, new, force)
        print(json.dumps({"moment": moment, "said": [first, second, third]}))


@pytest.mark.parametrize("force", [False, True], ids=["new", "rebuild"])
def test_builds_killed_at_any_step_resume_to_identical_bytes_and_never_look_complete(tmp_path, force):
    code = f"import pathlib, test_cache_interruption as t; t.under_fire(pathlib.Path({str(tmp_path)!r}), 3, {force})"
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert sum(report["said"][0] is None for report in reports) > 10, "too few builds were killed"
    for report in reports:
        assert "" not in report["said"], "a build ended in an error that is no CacheError"
        path = tmp_path / f"{report['moment']}.zarr"
        assert files_of(path) == files_of(tmp_path / "whole.zarr"), report
        seen = path.with_name(f"{report['moment']}-seen.zarr")
        if seen.exists():
            assert validate_cache(seen) == [], report
        assert seen.exists() or not force, report
    leftovers = {entry.name for entry in tmp_path.iterdir() if entry.suffix != ".zarr"}
    assert not leftovers, leftovers


def finalise_under_fire(root, force):
    """Kills the end of builds to an .h5 at every few of its steps and prints what was seen of each."""
    new, begun = {**metadata(LAYOUT), "pooling": {"of": "the new one"}}, root / "begun.h5"
    create_cache(begun, LAYOUT, rows(LAYOUT), new, force=True)
    for index in range(3):
        write_partition(begun, index, partition(LAYOUT, index))
    if force:
        build_until(root / "old.h5", metadata(LAYOUT), False)

    def copied(path):
        shutil.copytree(f"{begun}.partial", f"{path}.partial")
        if force:
            shutil.copy(root / "old.h5", path)

    copied(root / "whole.h5")
    n_steps = run_until(root / "whole.h5", None, lambda: finalise(root / "whole.h5"))
    for moment in sorted({*range(1, n_steps + 1, 7), n_steps, n_steps + 1}):
        path = root / f"{moment}.h5"
        copied(path)
        first = run_until(path, moment, lambda path=path: finalise(path))
        kept = [file for file in (path, Path(f"{path}.discarded")) if file.is_file()]
        seen = [str(problem) for file in kept for problem in validate_cache(file)]
        second = build_until(path, new, force)
        clear_leftovers(path, open_cache(path).metadata["cache_id"])
        print(json.dumps({"moment": moment, "said": [first, second], "kept": len(kept), "seen": seen}))
    shutil.rmtree(f"{begun}.partial")


@pytest.mark.parametrize("force", [False, True], ids=["new", "rebuild"])
def test_an_end_in_hdf5_killed_at_any_step_is_caught_up_with_and_loses_no_finished_cache(tmp_path, force):
    code = (
        f"import pathlib, test_cache_interruption as t; t.finalise_under_fire(pathlib.Path({str(tmp_path)!r}), {force})"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert sum(report["said"][0] is None for report in reports) > 8, "too few were killed"
    for report in reports:
        assert report["seen"] == [] and (report["kept"] or not force), report
        second = report["said"][1]
        assert isinstance(second, int) or (not force and "already there and complete" in second), report
        assert (tmp_path / f"{report['moment']}.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes(), report
    assert {entry.suffix for entry in tmp_path.iterdir()} == {".h5"}


def files_of(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
