"""What a cache holds, as FORMAT.md says it: arrays, codings, digests, and the checks of their values."""
