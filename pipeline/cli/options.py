"""Option types shared by the commands."""

import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import click

from pipeline.errors import TkdError, nearest

T = TypeVar("T")


class ChoiceWithHint(click.ParamType):
    """One of several names; an unknown one is answered with the nearest and the list."""

    name = "name"

    def __init__(self, names: Callable[[], Iterable[str]] | Iterable[str], what: str) -> None:
        """`names` may be a function, called when a name is given: so that help needs no heavy import."""
        self.names, self.what = names, what

    def get_metavar(self, param, ctx):
        if callable(self.names) or isinstance(param, click.Argument):
            return None
        return f"[{'|'.join(self.names)}]"

    def convert(self, value, param, ctx):
        names = self.names() if callable(self.names) else self.names
        if value not in names:
            self.fail(f"no such {self.what}: {value}. {nearest(value, names)}", param, ctx)
        return value


def checked(make_config: Callable[..., T], **settings) -> T:
    """Returns the config; what it refuses is an option wrongly used: usage, and exit code 2."""
    try:
        return make_config(**settings)
    except TkdError as error:
        raise click.UsageError(str(error)) from error


class Location(click.ParamType):
    """A cache: a path, or a URL as text."""

    name = "path or url"

    def convert(self, value, param, ctx):
        return value if "://" in str(value) else Path(value)


class Listed(click.ParamType):
    """Several values with commas between, as a tuple; "none" is the empty one."""

    def __init__(self, name: str, of: Callable[[str], object]) -> None:
        """`of` makes a value of its text, or raises ValueError."""
        self.name, self.of = name, of

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        if value == "none":
            return ()
        try:
            return tuple(self.of(part.strip()) for part in value.split(",") if part.strip())
        except ValueError:
            self.fail(f"{value!r} is not {self.name}", param, ctx)


class FiniteRange(click.FloatRange):
    """A number of a range; infinity and NaN, which click lets pass, are none."""

    def convert(self, value, param, ctx):
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


class Crops(click.ParamType):
    """Seconds and epochs: "1.25:8,2:4" is ((1.25, 8), (2.0, 4))."""

    name = "seconds:epochs,..."

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        try:
            pairs = [part.split(":") for part in value.split(",")]
            return tuple((float(seconds), int(epochs)) for seconds, epochs in pairs)
        except ValueError:
            self.fail(f"{value!r} is not seconds:epochs,... as in 1.25:8,2:4", param, ctx)


class Memory(click.ParamType):
    """Bytes: 512M, 2G, 1.5G or plain 1500000; K, M, G and T are powers of 1024."""

    name = "size"

    def convert(self, value, param, ctx):
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)i?B?", value.strip(), re.IGNORECASE)
        if not found:
            self.fail(f"{value!r} is not a size as in 512M or 2G", param, ctx)
        return int(float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " "))
