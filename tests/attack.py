"""Damages a small cache at random places and counts what a reader makes of it.

Run as: python tests/attack.py .h5 --trials 1000. Bits are flipped, bytes zeroed, files cut short, removed and put in
each other's place. Reading must raise CacheError, or return the same content; anything else is printed with its place
and makes the exit code 1. It runs in child processes, so that a crash of a library is counted, not suffered.
"""

import argparse
import collections
import multiprocessing
import queue
import random
import shutil
import sys
import tempfile
from pathlib import Path

from cache_builder import build, sizes

from cache_schema import CacheError, convert_cache, open_cache, validate_cache

KINDS = {"flip": 20, "cut": 3, "zero": 2, "remove": 1, "swap": 1}  # how often, in relation
BATCH = 100  # trials in a process
SECONDS = 60  # without a result is a hang


def content(path: Path) -> tuple[str, dict]:
    """Everything stored in a cache, and what it says of itself; software is told, not promised."""
    cache = open_cache(path)
    stored = repr({name: cache.read(name, decode=False).tolist() for name in cache.specs})
    return stored, {key: value for key, value in cache.metadata.items() if key != "software"}


def damage(source: Path, target: Path, rng: random.Random) -> str:
    """Makes `target` a damaged copy of `source`; returns how and where."""
    (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    files = sorted(file for file in (target.rglob("*") if target.is_dir() else [target]) if file.is_file())
    file = rng.choices(files, [file.stat().st_size for file in files])[0]
    kind, data = rng.choices([*KINDS], [*KINDS.values()])[0], bytearray(file.read_bytes())
    at = rng.randrange(len(data))
    if kind == "flip":
        data[at] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del data[at:]
    elif kind == "zero":
        data[at : at + 64] = bytes(len(data[at : at + 64]))
    elif kind == "swap":
        data = bytearray(rng.choice(files).read_bytes()) if target.is_dir() else data[::-1]
    file.write_bytes(data)
    if kind == "remove":
        file.unlink()
    return f"{kind} {file.name if target.is_file() else file.relative_to(target)} {at}"


def trial(source: Path, target: Path, expected: tuple[str, dict], rng: random.Random) -> tuple[str, str]:
    """What came of one damage, and how and where it was done."""
    where = damage(source, target, rng)
    try:
        outcome = "the same was read" if content(target) == expected else "UNDETECTED"
    except CacheError:
        outcome = "detected"
        try:
            if validate_cache(target) == []:
                outcome = "VALIDATED, though it cannot be read"
        except CacheError:
            pass
    except Exception as error:
        outcome = f"UNFORESEEN {type(error).__name__}: {error}"
    shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    return outcome, where


def batch(source: Path, target: Path, expected: tuple[str, dict], seed: int, results: multiprocessing.Queue) -> None:
    rng = random.Random(seed)
    for _ in range(BATCH):
        results.put(trial(source, target, expected, rng))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("suffix", choices=(".zarr", ".h5", ".zip"))
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    counts: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, f"source{arguments.suffix}")
        convert_cache(build(Path(folder, "built.zarr"), sizes(keep="heads"))[0], source)
        for number in range(-(-arguments.trials // BATCH)):
            results: multiprocessing.Queue = multiprocessing.Queue()
            target, seed = Path(folder, f"{number}{arguments.suffix}"), 1000 * arguments.seed + number
            child = multiprocessing.Process(target=batch, args=(source, target, content(source), seed, results))
            child.start()
            for _ in range(BATCH):
                try:
                    outcome, where = results.get(timeout=SECONDS)
                except queue.Empty:
                    outcome, where = "CRASH or hang", f"batch {number}, exit code {child.exitcode}"
                counts[outcome] += 1
                if outcome not in ("detected", "the same was read"):
                    print(f"{outcome}: {where}")
                if outcome == "CRASH or hang":
                    break
            child.kill()
            child.join()
    print(f"{arguments.suffix}: " + ", ".join(f"{outcome} {count}" for outcome, count in counts.most_common()))
    return int(not set(counts) <= {"detected", "the same was read"})


if __name__ == "__main__":
    sys.exit(main())
