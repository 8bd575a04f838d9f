"""Progress on standard error: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

_LINE_SECONDS = 10  # between plain lines

T = TypeVar("T")


def say(text: str) -> None:
    """Writes one line to standard error, above a progress bar if there is one."""
    tqdm.write(text, file=sys.stderr)


class Progress:
    """Counts work done towards `total` (None: not known); a context manager.

    Of unit "B", bytes are shown scaled. Without `show` it is silent, as in all processes but the first.
    """

    def __init__(self, description: str, total: int | None, unit: str = "it", show: bool = True) -> None:
        self.description, self.total, self.unit, self.show, self.done = description, total, unit, show, 0
        self.started = self.last_line = time.monotonic()
        self.bar = None
        if show and sys.stderr.isatty():
            self.bar = tqdm(total=total, desc=description, unit=unit, unit_scale=unit == "B", file=sys.stderr)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_exc) -> None:
        if self.bar is not None:
            self.bar.close()
        elif self.show:
            self._line()

    def advance(self, n: int = 1) -> None:
        """Counts `n` more done."""
        self.done += n
        if self.bar is not None:
            self.bar.update(n)
        elif self.show and time.monotonic() - self.last_line > _LINE_SECONDS:
            self.last_line = time.monotonic()
            self._line()

    def _line(self) -> None:
        seconds = time.monotonic() - self.started
        scale, unit = (1e6, "MB") if self.unit == "B" else (1, self.unit)
        counts = [
            f"{count / scale:.1f}" if scale > 1 else str(count)
            for count in (self.done, self.total)
            if count is not None
        ]
        say(f"{self.description}: {' of '.join(counts)} {unit}, {seconds:.0f} s")


class FetchLog:
    """Called with the bytes of every piece that arrives: says now and then how much has."""

    def __init__(self, location: object) -> None:
        self.location, self.n_bytes, self.last_line = location, 0, time.monotonic()

    def __call__(self, n_bytes: int) -> None:
        self.n_bytes += n_bytes
        if time.monotonic() - self.last_line > _LINE_SECONDS:
            self.last_line = time.monotonic()
            say(f"{self.location}: {self.n_bytes / 1e6:.1f} MB fetched")


def track(items: Iterable[T], description: str, total: int, unit: str = "it") -> Iterator[T]:
    """Yields `items`, showing how many of `total` are done."""
    with Progress(description, total, unit) as progress:
        for item in items:
            yield item
            progress.advance()
