"""What it costs to keep where the teacher looked, beside the forward pass alone: time, memory and error.

`plain` is the forward pass with fused attention (sdpa) and no maps; `pooled` is stage one's; `naive` keeps the maps of
all layers (`output_attentions=True`) and multiplies them out (full-matrix rollout). Weights are random: the cost is
that of the shape, not of what was learned.
"""

import json
import subprocess
import sys
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import Wav2Vec2Config, Wav2Vec2Model

from pipeline.bench.compare import peak_memory, row, take_turns, threads
from pipeline.bench.results import Measured, Row, Table
from pipeline.extract.attention import pool_attention
from pipeline.progress import say
from pipeline.teacher.model import Teacher, load_teacher

# The shapes of facebook/wav2vec2-base and facebook/wav2vec2-large-xlsr-53.
_SHAPES = {
    "BASE": {},
    "XLSR": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
        "conv_bias": True,
    },
}
TEACHERS = ("bundled", *_SHAPES)
CASES = {2: 4, 8: 1, 30: 1}  # seconds a clip: clips a batch
_ROUNDS = {"bundled": 15, "BASE": 5, "XLSR": 3}
_LONG_ROUNDS = {"bundled": 7, "BASE": 2, "XLSR": 2}  # of 30 s


def teacher_of(name: str) -> Teacher:
    """Returns one of `TEACHERS` in eval mode; the bundled one, or one with random weights."""
    if name == "bundled":
        return load_teacher("bundled")[0]
    torch.manual_seed(0)
    return Teacher(Wav2Vec2Model(Wav2Vec2Config(**_SHAPES[name])), 12).eval()


def times(teacher: Teacher, seconds: int, bfloat16: bool, rounds: int) -> dict[str, list[float]]:
    """Returns the seconds that a batch of clips takes in the three ways, round by round, run in turn."""
    ways = _ways(teacher, torch.randn(CASES[seconds], 16000 * seconds), bfloat16)
    # A pass over 30 s is long beside what the first of its kind takes more.
    return take_turns(ways, rounds, warm_up=seconds < 30)


def peak_bytes(name: str, way: str, seconds: int) -> int:
    """Returns the peak memory of a process that does one batch in one of the ways, all in all."""
    arguments = [sys.executable, "-m", __name__, name, way, str(seconds)]
    return json.loads(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout)


def rollout_error(teacher: Teacher, seconds: int, bfloat16: bool) -> float:
    """Returns the largest difference of stage one's rollout to the full-matrix definition in float64.

    The queries are made eight times as large, so that random weights, too, look somewhere.
    """
    for layer in teacher.encoder.encoder.layers:
        layer.attention.q_proj.weight.data *= 8
    waveform = torch.randn(1, 16000 * seconds)
    pooled = pool_attention(teacher, waveform, bfloat16=bfloat16).rollout[0]
    teacher.encoder.set_attn_implementation("eager")
    with torch.inference_mode():
        maps = [layer[0].mean(dim=0) for layer in teacher.encoder(waveform, output_attentions=True).attentions]
    for layer in teacher.encoder.encoder.layers:
        layer.attention.q_proj.weight.data /= 8
    return float((pooled - _full_rollout([layer.double() for layer in maps])[0]).abs().max())


def _ways(teacher: Teacher, waveforms: Tensor, bfloat16: bool) -> dict[str, Callable[[], object]]:
    mixed_precision = torch.autocast("cpu", torch.bfloat16, enabled=bfloat16)

    def plain() -> None:
        teacher.encoder.set_attn_implementation("sdpa")
        with torch.inference_mode(), mixed_precision:
            teacher(waveforms)

    def naive() -> None:
        teacher.encoder.set_attn_implementation("eager")
        with torch.inference_mode(), mixed_precision:
            attentions = teacher.encoder(waveforms, output_attentions=True).attentions
            torch.stack([layer.mean(dim=2) for layer in attentions])  # what each frame receives
            _full_rollout([layer.float().mean(dim=1) for layer in attentions])

    return {"plain": plain, "pooled": lambda: pool_attention(teacher, waveforms, bfloat16=bfloat16), "naive": naive}


def _full_rollout(head_means: list[Tensor]) -> Tensor:
    """Returns the product over layers of 0.5 A + 0.5 I (arXiv 2005.00928), (..., T, T)."""
    product = identity = torch.eye(head_means[0].shape[-1], dtype=head_means[0].dtype)
    for attention in head_means:
        product = (0.5 * attention + 0.5 * identity) @ product
    return product


def measure(quick: bool) -> Measured:
    """Compares stage one's pass with the plain one and with the naive one: time, memory, error.

    Times are of one thread, as each of stage one's forward passes is on a CPU.
    """
    names, cases = (("bundled", "BASE"), (2, 8)) if quick else (TEACHERS, tuple(CASES))
    beside_plain: dict[str, list[Row]] = {name: [] for name in names}
    beside_naive: list[Row] = []
    errors: list[str] = []
    with threads(1):
        for name in names:
            teacher = teacher_of(name)
            for bfloat16 in (False, True):
                for seconds in cases:
                    what = f"{name}, {seconds} s, {_precision(bfloat16)}"
                    rounds = 2 if quick else (_LONG_ROUNDS if seconds == 30 else _ROUNDS)[name]
                    taken = times(teacher, seconds, bfloat16, rounds)
                    beside_plain[name].append(row(what, taken["pooled"], taken["plain"]))
                    beside_naive.append(row(what, taken["pooled"], taken["naive"]))
                    say(f"stage one, {what}: {beside_plain[name][-1].ratio:.3f} of the plain forward pass")
            if name in _SHAPES:
                found = [f"{rollout_error(teacher, 8, b):.0e}" for b in (False, True)]
                errors.append(f"{name} {found[0]} in float32 and {found[1]} in bfloat16")
    memory_plain, memory_naive = [], []
    for name, seconds in ((name, seconds) for name in names if name in _SHAPES for seconds in cases if seconds > 2):
        plain, pooled, naive = (peak_bytes(name, way, seconds) / 1e9 for way in ("plain", "pooled", "naive"))
        memory_plain.append(Row(f"{name}, {seconds} s, float32", pooled / plain, pooled, plain))
        memory_naive.append(Row(f"{name}, {seconds} s, float32", pooled / naive, pooled, naive))
        say(f"stage one's memory, {name}, {seconds} s: {pooled / plain:.3f} of the plain forward pass's")
    large = [row for name in names if name in _SHAPES for row in beside_plain[name]]
    tables = [
        Table("stage one's time, large teachers", "plain forward pass", large, target=1.05),
        Table("stage one's time, bundled teacher", "plain forward pass", beside_plain["bundled"]),
        Table("stage one's time, every teacher", "naive extraction", beside_naive),
        Table("stage one's peak memory", "plain forward pass", memory_plain, "GB", target=1.1),
        Table("stage one's peak memory", "naive extraction", memory_naive, "GB"),
    ]
    return Measured(
        tables,
        [
            "One thread. Plain is fused attention without maps; naive keeps all maps (`output_attentions=True`) and "
            "multiplies them out. BASE and XLSR are encoders of these shapes with random weights. Memory is that of a "
            "whole process.",
            f"Largest difference of the rollout to the full-matrix definition in float64, 8 s: {'; '.join(errors)} "
            "(target: 1e-5 in float32).",
        ],
    )


def _precision(bfloat16: bool) -> str:
    return "bfloat16" if bfloat16 else "float32"


if __name__ == "__main__":
    _name, _way, _seconds = sys.argv[1:]
    _ways(teacher_of(_name), torch.randn(1, 16000 * int(_seconds)), False)[_way]()
    print(peak_memory())
