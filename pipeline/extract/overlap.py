"""What other threads do while this one runs the teacher: prepare its next batches, put away what it said."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

Task = TypeVar("Task")
Result = TypeVar("Result")

_ADDING = threading.Lock()
_BUSY = 0.95  # of the time in the forward pass: below it, what else was waited for is said


@dataclass
class Usage:
    """Where the time of a build went, in seconds; all but `wall` are sums over workers."""

    wall: float = 0.0
    n_workers: int = 1
    n_lanes: int = 1  # forward passes at once, of a worker
    forward: float = 0.0  # inside them
    clips: float = 0.0  # waiting for clips to be rendered
    teacher: float = 0.0  # waiting for the teacher
    writing: float = 0.0  # waiting for what was to be put away and written
    audio: float = 0.0  # of the clips heard

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Adds the seconds that the block takes to `what`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._add(what, time.perf_counter() - started)

    def add(self, other: "Usage") -> None:
        """Adds what another worker did."""
        self.n_lanes = other.n_lanes
        for name in ("forward", "clips", "teacher", "writing", "audio"):
            self._add(name, getattr(other, name))

    def _add(self, what: str, amount: float) -> None:
        with _ADDING:
            setattr(self, what, getattr(self, what) + amount)

    def __str__(self) -> str:
        wall = max(self.wall, 1e-9)
        forward = self.forward / wall / self.n_workers / self.n_lanes
        waited = ""
        if forward < _BUSY and max(self.clips, self.writing) > self.teacher:
            waited = f", the rest mostly waiting for {'clips' if self.clips > self.writing else 'writing'}"
        return f"{forward:.1%} of the time in the forward pass{waited}; {self.audio / wall:.1f} s of audio a second"


def ahead(
    tasks: Iterable[Task], work: Callable[[Task], Result], n_threads: int, depth: int, usage: Usage, what: str
) -> Iterator[Result]:
    """Yields `work(task)` in order; while one is used, threads do up to `depth` of the next.

    What `work` raises is raised here, and what `tasks` raises, after the results of the tasks before. The time spent
    waiting for work is added to the usage as `what`. Close the iterator where it may be left half used
    (`contextlib.closing`).

    Torch computes with one thread in these threads: teams of threads that want the same cores hold each other up, and
    what is computed does not depend on how many cores there are.
    """
    with ThreadPoolExecutor(n_threads, f"tkd-{what}", torch.set_num_threads, (1,)) as pool:
        waiting: deque[Future[Result]] = deque()

        def first() -> Result:
            with usage.timed(what):
                return waiting.popleft().result()

        coming, failure = iter(tasks), None
        try:
            while True:
                try:
                    task = next(coming)
                except StopIteration:
                    break
                except Exception as error:
                    failure = error
                    break
                waiting.append(pool.submit(work, task))
                if len(waiting) > depth:
                    yield first()
            while waiting:
                yield first()
            if failure is not None:
                raise failure
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # leaving the block waits for those that have begun


@contextmanager
def behind(depth: int, usage: Usage) -> Iterator[Callable[..., Future]]:
    """Yields `later(work, *arguments)`: a thread does these calls in order, while the block goes on.

    `later` waits where more than `depth` calls are still to be done. What a call raised is raised by a later `later`,
    or at the end of the block; if the block itself fails, the calls already handed over are done first.
    """
    with ThreadPoolExecutor(1, "tkd-writing", torch.set_num_threads, (1,)) as pool:
        waiting: deque[Future] = deque()

        def later(work: Callable[..., object], *arguments: object) -> Future:
            future = pool.submit(work, *arguments)
            waiting.append(future)
            with usage.timed("writing"):
                while len(waiting) > depth or (waiting and waiting[0].done()):
                    waiting.popleft().result()
            return future

        yield later
        with usage.timed("writing"):
            for future in waiting:
                future.result()
