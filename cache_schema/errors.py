"""The errors of this package."""


class CacheError(ValueError):
    """A cache cannot be written, continued or trusted; the message says where, why and what to do next."""


class Busy(CacheError):
    """Another process is writing it, and is named."""
