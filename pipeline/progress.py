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
    """Counts work done towards `total`; a context manager."""

    def __init__(self, description: str, total: int, unit: str = "it") -> None:
        self.description, self.total, self.unit, self.done = description, total, unit, 0
        self.started = self.last_line = time.monotonic()
        self.bar = tqdm(total=total, desc=description, unit=unit, file=sys.stderr) if sys.stderr.isatty() else None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_exc) -> None:
        if self.bar is not None:
            self.bar.close()
        else:
            self._line()

    def advance(self, n: int = 1) -> None:
        """Counts `n` more done."""
        self.done += n
        if self.bar is not None:
            self.bar.update(n)
        elif time.monotonic() - self.last_line > _LINE_SECONDS:
            self.last_line = time.monotonic()
            self._line()

    def _line(self) -> None:
        seconds = time.monotonic() - self.started
        say(f"{self.description}: {self.done} of {self.total} {self.unit}, {seconds:.0f} s")


def track(items: Iterable[T], description: str, total: int, unit: str = "it") -> Iterator[T]:
    """Yields `items`, showing how many of `total` are done."""
    with Progress(description, total, unit) as progress:
        for item in items:
            yield item
            progress.advance()
