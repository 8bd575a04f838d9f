"""Reading a cache for training: the same batches whatever the memory, and no more memory than was given."""

import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing
from itertools import islice

import cache_builder
import click
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from cache_schema import CacheError, convert_cache, open_cache
from pipeline.cli.options import Memory
from pipeline.distill.config import TrainConfig
from pipeline.distill.data import CacheDataset, Clips, Split, load_splits
from pipeline.distill.data.memory import available_memory
from pipeline.distill.data.order import in_order, pieces_of, shuffled
from pipeline.distill.train import train
from pipeline.errors import TkdError

LARGE = ("features", "rollout", "logits")
SEEDS = (5, 6, 7)


@pytest.fixture(scope="module")
def layout():
    """160 clips in 40 partitions; a split's border lies inside one."""
    return cache_builder.sizes(n_clips=160, n_features=40, n_feature_frames=33, n_frames=9)


@pytest.fixture(scope="module")
def path(layout, tmp_path_factory):
    described = cache_builder.metadata(layout)
    described["features"] |= {"frame_offset": 319.5, "n_mels": 40}
    described["teacher"]["readout"] = "first_token"
    return cache_builder.build(tmp_path_factory.mktemp("caches") / "many.zarr", layout, described)[0]


@pytest.fixture(scope="module")
def copies(path):
    """The same cache in every container."""
    for suffix in (".h5", ".zip"):
        convert_cache(path, path.with_suffix(suffix))
    return {suffix: path.with_suffix(suffix) for suffix in (".zarr", ".h5", ".zip")}


@pytest.fixture
def cache(path):
    return open_cache(path)


@pytest.fixture(scope="module")
def smallest(path):
    """The least memory with which the cache can be read: what the error asks for."""
    with pytest.raises(TkdError) as refusal:
        load_splits(open_cache(path), memory=1)
    return int(str(refusal.value).partition(" takes ")[2].partition(" bytes")[0].replace(",", ""))


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "tkd-cache-reader"]


@pytest.mark.parametrize("suffix", [".zarr", ".h5", ".zip"])
def test_batches_depend_neither_on_the_memory_nor_on_the_container(cache, copies, suffix, smallest):
    resident, streamed = load_splits(cache), load_splits(open_cache(copies[suffix]), memory=smallest)
    assert all(split.resident for split in resident.values())
    assert not streamed["train"].resident
    for name in resident:
        ways = [lambda split: split.shuffled(7, SEEDS), lambda split: split.batches(7)]
        for way in ways:
            for one, other in zip(way(resident[name]), way(streamed[name]), strict=True):
                assert_equal(one, other)


def assert_equal(one: Clips, other: Clips) -> None:
    assert list(one.clip_id) == list(other.clip_id)
    for field in set(vars(one)) - {"clip_id"}:
        assert torch.equal(getattr(one, field), getattr(other, field)), field


@pytest.mark.parametrize("memory", ["all", "little"])
def test_what_comes_is_what_the_cache_says_of_the_clip(cache, smallest, memory):
    split = load_splits(cache, drop_first=False, memory=None if memory == "all" else smallest)["train"]
    row_of = {clip: row for row, clip in enumerate(cache.read("clip_id"))}
    expected = {
        "features": "features",
        "lengths": "n_feature_frames",
        "labels": "label",
        "weights": "rollout",
        "weight_lengths": "n_frames",
        "event_start": "event_start",
        "event_stop": "event_stop",
        "teacher_logits": "logits",
    }
    stored = {name: cache.read(name) for name in expected.values()}
    for batch in split.shuffled(10, [3]):
        rows = [row_of[clip] for clip in batch.clip_id]
        for field, name in expected.items():
            there = stored[name][rows]
            if field in ("features", "weights"):  # as long as the longest of the batch
                lengths = stored[expected["lengths" if field == "features" else "weight_lengths"]]
                there = there[..., : lengths[rows].max()]
            assert np.array_equal(getattr(batch, field).numpy(), there), field


def test_the_readouts_own_place_is_left_out_of_the_rollout_unless_it_is_kept(cache):
    for drop_first in (True, False):
        batch = next(iter(load_splits(cache, drop_first)["test"].batches(4)))
        assert bool((batch.weights[:, 0] == 0).all()) is drop_first


@pytest.mark.parametrize("memory", ["all", "little"])
def test_every_epoch_has_each_clip_once_in_an_order_of_its_own(cache, smallest, memory):
    split = load_splits(cache, memory=None if memory == "all" else smallest)["train"]
    n_steps = -(-len(split) // 10)
    orders = []
    with closing(split.shuffled(10, SEEDS)) as batches:
        for _ in SEEDS:
            epoch = list(islice(batches, n_steps))
            assert [len(batch) for batch in epoch[:-1]] == [10] * (n_steps - 1)
            orders.append([clip for batch in epoch for clip in batch.clip_id])
        assert next(batches, None) is None
    for order in orders:
        assert sorted(order) == sorted(split.clip_id)
    assert len({tuple(order) for order in orders}) == len(SEEDS)


def test_the_same_seed_gives_the_same_order_and_clips_of_all_partitions_meet(layout):
    pieces = pieces_of(layout, range(160))
    one, other = (torch.cat([pool.rows for pool in shuffled(pieces, 9)]) for _ in range(2))
    assert torch.equal(one, other)
    met = Counter()
    for seed in range(120):
        for pool in shuffled(pieces, seed):
            met.update(
                (a.partition, b.partition) for a in pool.pieces for b in pool.pieces if a.partition < b.partition
            )
    assert len(met) == 40 * 39 // 2


def test_a_split_of_one_pool_is_shuffled_as_a_whole(cache):
    """The order of caches of up to eight partitions: torch.randperm over the split's rows, from the seed alone."""
    split = load_splits(cache, pool=40)["train"]
    for seed in SEEDS:
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
        batches = list(split.shuffled(16, [seed]))
        assert [clip for batch in batches for clip in batch.clip_id] == list(split.clip_id[order.numpy()])
        assert [len(batch) for batch in batches] == [len(rows) for rows in order.split(16)]


@pytest.mark.parametrize("rows", [range(160), range(3, 50), range(5, 7), range(4, 8), range(159, 160)])
@pytest.mark.parametrize("pool", [1, 3, 8])
def test_pools_hold_every_row_once_and_are_no_larger_than_asked(layout, rows, pool):
    pieces = pieces_of(layout, rows)
    pools = list(shuffled(pieces, 1, pool))
    assert sorted(torch.cat([each.rows for each in pools]).tolist()) == list(range(len(rows)))
    assert max(len(each.pieces) for each in pools) <= pool
    assert max(len(each.pieces) for each in pools) - min(len(each.pieces) for each in pools) <= 1
    assert [each.ends_epoch for each in pools] == [False] * (len(pools) - 1) + [True]
    assert torch.cat([each.rows for each in in_order(pieces)]).tolist() == list(range(len(rows)))


def test_a_few_clips_are_read_alone(cache):
    split = load_splits(cache)["train"]
    whole = next(iter(split.batches(len(split))))
    assert_equal(split.take([30, 2, 29]), whole.take([30, 2, 29]))


class Counted(np.ndarray):
    """Memory that knows how much of it is in use at most."""

    now = most = 0

    def __del__(self):
        if self.base is None or not isinstance(self.base, Counted):
            Counted.now -= self.nbytes


@pytest.fixture
def count(monkeypatch):
    """Counts the bytes of a split's buffers."""
    Counted.now = Counted.most = 0
    make = Split._buffer

    def counted(self, n):
        made = {name: values.view(Counted) for name, values in make(self, n).items()}
        Counted.now += sum(values.nbytes for values in made.values())
        Counted.most = max(Counted.most, Counted.now)
        return made

    monkeypatch.setattr(Split, "_buffer", counted)
    return Counted


def test_no_more_than_two_pools_are_in_memory(cache, smallest, count):
    clip_bytes = 2 * (40 * 33 + 9 + 4)
    splits = load_splits(cache, memory=smallest)
    batches = splits["train"].shuffled(16, SEEDS)
    for _ in islice(batches, 5):
        time.sleep(0.01)  # the thread reads as far ahead as it may
    for _ in splits["validation"].batches(4):
        pass
    list(batches)
    assert 0 < count.most <= (2 * 8 * 4 + 2 * 4) * clip_bytes
    assert count.most <= smallest
    assert count.now == 0


def test_with_memory_for_all_everything_is_read_once(cache, monkeypatch):
    reads = Counter()
    read = type(cache).read
    monkeypatch.setattr(type(cache), "read", lambda self, name, *rest: reads.update([name]) or read(self, name, *rest))
    split = load_splits(cache)["train"]
    list(split.shuffled(16, SEEDS))
    list(split.shuffled(16, SEEDS))
    list(split.batches(16))
    assert {reads[name] for name in LARGE} == {len(split._pieces)}


def test_too_little_memory_is_refused_with_the_bytes_it_takes(cache, smallest):
    load_splits(cache, memory=smallest)
    with pytest.raises(TkdError, match=rf"takes {smallest:,} bytes of memory at least, it may take {smallest - 1:,}"):
        load_splits(cache, memory=smallest - 1)
    with pytest.raises(TkdError, match=r"Give --memory 1M or more\.$"):
        load_splits(cache, memory=0)


def test_only_the_splits_asked_for_are_read(cache):
    assert list(load_splits(cache, names=("test",))) == ["test"]


def train_weights(cache, out, **settings):
    train(cache, TrainConfig(student="tc_resnet", epochs=2, batch_size=10, augment=()), out, **settings)
    return load_file(out / "model.safetensors"), (out / "metrics.json").read_text()


def test_trained_weights_do_not_depend_on_the_memory(cache, smallest, tmp_path, capsys):
    resident, _ = train_weights(cache, tmp_path / "resident")
    assert "--memory" not in capsys.readouterr().err
    streamed, _ = train_weights(cache, tmp_path / "streamed", memory=smallest)
    assert "larger than the memory it may take (--memory)" in capsys.readouterr().err
    assert all(torch.equal(resident[name], streamed[name]) for name in resident)
    assert not readers()


def test_a_run_resumed_with_other_memory_goes_on(cache, smallest, tmp_path, capsys):
    expected, _ = train_weights(cache, tmp_path / "whole")
    split = load_splits(cache)["train"]
    n_steps, seen = -(-len(split) // 10), 0
    real = torch.optim.AdamW.step

    def cut_off(self, *args, **kwargs):
        nonlocal seen
        seen += 1
        if seen > n_steps + 1:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.optim.AdamW, "step", cut_off)
        train_weights(cache, tmp_path / "cut", memory=smallest)
    assert not readers()
    capsys.readouterr()
    resumed, _ = train_weights(cache, tmp_path / "cut", resume=True)
    said = capsys.readouterr().err
    assert "epoch 1 of 2" not in said and "epoch 2 of 2" in said
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


def damage(path, name="features"):
    """Flips a byte in the middle of the last shard file of training clips."""
    shard = path / name / "c" / "2"
    file = (
        shard if shard.is_file() else max((f for f in shard.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    )
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 0x10
    file.write_bytes(content)


def test_damage_that_appears_while_a_cache_is_streamed_stops_the_training(path, smallest, tmp_path, layout):
    own = cache_builder.build(tmp_path / "own.zarr", layout)[0]
    split = load_splits(open_cache(own), memory=smallest)["train"]
    with closing(split.shuffled(10, range(4))) as batches, pytest.raises(CacheError, match=r"features.*partition 2 "):
        for step, _ in enumerate(batches):
            if step == 12:
                damage(own)
    assert not readers()


def test_damage_stops_a_training_with_the_place(tmp_path, layout, smallest):
    described = cache_builder.metadata(layout)
    described["features"] |= {"frame_offset": 319.5, "n_mels": 40}
    for memory in (None, smallest):
        own = cache_builder.build(tmp_path / f"{memory}.zarr", layout, described)[0]
        damage(own, "features")
        with pytest.raises(CacheError, match=r"features.*partition 2 "):
            train_weights(open_cache(own), tmp_path / f"run-{memory}", memory=memory)
        assert not (tmp_path / f"run-{memory}" / "metrics.json").exists()
        assert not readers()


@pytest.mark.parametrize("memory", ["all", "little"])
def test_the_thread_ends_with_its_iterator(cache, smallest, memory):
    split = load_splits(cache, memory=None if memory == "all" else smallest)["train"]
    batches = split.shuffled(4, SEEDS)
    assert not readers()
    next(batches)
    assert len(readers()) == 1
    batches.close()
    assert not readers()
    for _ in zip(range(2), split.shuffled(4, SEEDS), strict=False):
        pass  # forgotten, not closed
    assert not readers()
    list(split.batches(4))
    assert not readers()


def test_a_process_that_leaves_an_iterator_half_used_ends(path):
    program = f"""
from cache_schema import open_cache
from pipeline.distill.data import load_splits
batches = load_splits(open_cache({str(path)!r}))["train"].shuffled(4, range(9))
print(len(next(batches)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "4", "")


def direct(cache, split: str) -> dict[str, np.ndarray]:
    rows = cache.split_rows(split)
    return {name: cache.read(name)[rows] for name in ("clip_id", "label", "n_frames", "event_start", *LARGE)}


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_a_dataset_is_right_in_workers(copies, suffix, context):
    """Also after the parent has read from it, when a forked worker inherits what the parent has open."""
    cache = open_cache(copies[suffix])
    dataset, stored = CacheDataset(cache, "train", n_partitions=3), direct(cache, "train")
    dataset[0]
    order = dataset.order(seed=1)
    loader = DataLoader(dataset, 8, sampler=order, num_workers=2, multiprocessing_context=context)
    batches = list(loader)
    clips = [clip for batch in batches for clip in batch["clip_id"]]
    assert clips == list(stored["clip_id"][order])
    for name in set(stored) - {"clip_id"}:
        assert np.array_equal(torch.cat([batch[name] for batch in batches]).numpy(), stored[name][order]), name


def test_a_dataset_keeps_a_few_partitions(cache):
    dataset, stored = CacheDataset(cache, "validation", n_partitions=2), direct(cache, "validation")
    assert len(dataset) == len(stored["label"])
    for index in (*range(len(dataset)), 0, -1):
        assert dataset[index]["clip_id"] == stored["clip_id"][index]
        assert len(dataset._kept) <= 2
    with pytest.raises(IndexError, match=f"clip {len(dataset)} of {len(dataset)}"):
        dataset[len(dataset)]


def test_a_datasets_order_is_that_of_training(cache):
    split, dataset = load_splits(cache)["train"], CacheDataset(cache, "train")
    clips = [clip for batch in split.shuffled(10, [4]) for clip in batch.clip_id]
    assert list(split.clip_id[dataset.order(4)]) == clips


@pytest.mark.parametrize(("given", "n"), [("512M", 512 << 20), ("2g", 2 << 30), ("1.5K", 1536), ("1500", 1500)])
def test_memory_is_given_as_people_write_it(given, n):
    assert Memory().convert(given, None, None) == n


@pytest.mark.parametrize("given", ["much", "", "-1", "2X", "G"])
def test_what_is_not_a_size_is_refused(given):
    with pytest.raises(click.BadParameter, match="is not a size as in 512M or 2G"):
        Memory().convert(given, None, None)


def test_available_memory_is_the_least_of_the_machine_and_the_groups_around_the_process(tmp_path):
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:  8000 kB\n")
    assert available_memory(proc, groups) == 8000 * 1024
    (proc / "self" / "cgroup").write_text("0::/job/step\n")
    for folder, limit, used in ((groups / "job", "5000000", "3000000"), (groups / "job" / "step", "max", "1000000")):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text("anon 1\ninactive_file 500000\n")
    assert available_memory(proc, groups) == 2_500_000
    assert available_memory() > 0


def test_features_at_another_rate_than_the_teachers_are_refused(layout, tmp_path):
    described = cache_builder.metadata(layout)
    described["features"] |= {"frame_offset": 319.5, "n_mels": 40, "sample_rate": 8000}
    path = cache_builder.build(tmp_path / "slow.zarr", layout, described)[0]
    with pytest.raises(TkdError, match="features at 8000 Hz, frame weights and events at 16000 Hz"):
        load_splits(open_cache(path))
