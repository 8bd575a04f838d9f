"""Option types shared by the commands."""

import click

from pipeline.errors import nearest


class ChoiceWithHint(click.ParamType):
    """One of several names; an unknown one is answered with the nearest and the list."""

    name = "name"

    def __init__(self, names: tuple[str, ...], what: str) -> None:
        self.names, self.what = names, what

    def convert(self, value, param, ctx):
        if value not in self.names:
            self.fail(f"no such {self.what}: {value}. {nearest(value, self.names)}", param, ctx)
        return value


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
