"""Errors a user can act on."""

import difflib
from collections.abc import Iterable


class TkdError(Exception):
    """A fact and the way out; the command line prints it as one line and exits with 1."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns a hint for an unknown `name`: the known names, and the most similar one first if there is one."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1) or [one for one in known if one.lower() == name.lower()]
    hint = f"Did you mean {close[0]}? " if close else ""
    return f"{hint}Known: {', '.join(known)}."
