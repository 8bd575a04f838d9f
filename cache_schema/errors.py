"""The one error of this package."""


class CacheError(ValueError):
    """A cache cannot be written, continued or trusted; the message says where, why and what to do next."""
