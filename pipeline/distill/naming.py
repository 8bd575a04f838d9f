"""What a run is called: short for what is usual, and never the same for two settings."""

import hashlib
from dataclasses import fields
from urllib.parse import quote

from pipeline.distill.config import TrainConfig

_CALLED = {  # where the name of a setting is longer than it need be; "": its values say what they are
    "kd_weight": "kd",
    "logit_kd": "logitkd",
    "frame_weights": "",
    "combination": "",
    "kd_schedule": "",
    "optimizer": "",
    "batch_size": "batch",
    "learning_rate": "lr",
    "weight_decay": "wd",
    "max_grad_norm": "gradnorm",
    "class_weights": "classes",
}
_LONGEST = 160  # a file system's 255 less what is put around it


def run_name(config: TrainConfig) -> str:
    """Returns the name of a run: student, kd_weight, whatever else is not as by default, seed.

    As in `crnn-kd0.25-seed0`, `crnn-kd0.25-uniform-epochs30-noviews-seed1`. It is fit for a file name: letters of
    ASCII, digits and `-_.+%`. Two configs never have one name.
    """
    differing = [
        _part(field.name, getattr(config, field.name))
        for field in fields(config)
        if field.name not in ("student", "kd_weight", "seed") and getattr(config, field.name) != field.default
    ]
    named = [_text(config.student), _part("kd_weight", config.kd_weight), *differing, _part("seed", config.seed)]
    name = "-".join(named)
    if len(name) > _LONGEST:
        digest = hashlib.sha256(name.encode()).hexdigest()[:16]
        name = f"{name[: _LONGEST - 1 - len(digest)]}-{digest}"
    return name


def _part(name: str, value: object) -> str:
    called = _CALLED.get(name, name.replace("_", ""))
    if isinstance(value, bool) or value == ():
        return called if value else f"no{called}"
    return called + _text(value)


def _text(value: object) -> str:
    """Returns a value without a hyphen followed by a letter, which is where the next part begins."""
    if isinstance(value, int | float):
        return repr(value).removesuffix(".0")  # every digit: what differs in the last one is another setting
    if isinstance(value, tuple):
        return "+".join(map(_text, value))
    return quote(str(value), safe="").replace("%3A", "").replace("%2C", "+").replace("-", "%2D")
