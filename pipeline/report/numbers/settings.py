"""Which runs may stand in one table: those that differ in seed, student, kd_weight and frame_weights alone."""

from typing import Any

from pipeline.report.numbers.records import Record

_CELL = {"student", "kd_weight", "frame_weights", "seed"}
_CACHE = {"cache", "cache_id", "labels", "features"}
# At kd_weight 0 they change no student, of the temporal term alone; these, where there is no logit KD either.
_TEMPORAL, _DISTILLATION = {"first_frame", "attention", "alignment"}, {"combination", "kd_schedule", "temperature"}
_LOOKING = {"crop", "specaugment"}  # augmentations that keep what the frame weights point at
NOT_STATED = "not stated"  # by a run of an earlier version; whether it did the same is not for a report to guess


def settings_of(record: Record) -> dict[str, Any]:
    """Returns what a run shares with those it may be compared with: all of its settings but those of a table's cell."""
    settings = {name: value for name, value in record.config.items() if name not in _CELL | _CACHE}
    return {**settings, "logit_kd": record.config.get("logit_kd", record.metrics.get("logit_kd", 0.0))}


def same_vanilla(settings: dict[str, Any]) -> str:
    """Returns what runs at kd_weight 0 have in common that are equal but for settings which then change nothing."""
    idle = _TEMPORAL if settings["logit_kd"] else _TEMPORAL | _DISTILLATION
    if not _LOOKING.isdisjoint(settings.get("augment", _LOOKING)):
        idle = idle - {"first_frame"}
    return key_of({name: value for name, value in settings.items() if name not in idle})


def key_of(settings: dict[str, Any]) -> str:
    """Returns settings as something that can be compared and be a key."""
    return repr(sorted(settings.items()))


def differing(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns of each group's settings those in which the groups differ, by name."""
    names = sorted({name for group in groups for name in group})
    varied = [name for name in names if len({repr(group.get(name, NOT_STATED)) for group in groups}) > 1]
    return [{name: group.get(name, NOT_STATED) for name in varied} for group in groups]


def in_words(settings: dict[str, Any]) -> str:
    """Returns settings as text: "fraction 0.1, views off"."""
    return ", ".join(f"{name} {_value(value)}" for name, value in settings.items())


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return "+".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
