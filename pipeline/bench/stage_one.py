"""What it costs to keep where the teacher looked, beside the forward pass alone: time, memory and error.

`plain` is the forward pass with fused attention (sdpa) and no maps; `pooled` is stage one's; `naive` keeps the maps of
all layers (`output_attentions=True`) and multiplies them out (full-matrix rollout). Weights are random: the cost is
that of the shape, not of what was learned.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Wav2Vec2Config, Wav2Vec2Model

from pipeline.bench.compare import peak_memory, take_turns
from pipeline.extract.attention import pool_attention
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


@dataclass(frozen=True)
class Times:
    """Of one teacher and length; the ratios are those to `plain`, medians over the rounds."""

    plain_seconds: float
    pooled: float
    naive: float


def teacher_of(name: str) -> Teacher:
    """Returns one of `TEACHERS` in eval mode; the bundled one, or one with random weights."""
    if name == "bundled":
        return load_teacher("bundled")[0]
    torch.manual_seed(0)
    return Teacher(Wav2Vec2Model(Wav2Vec2Config(**_SHAPES[name])), 12).eval()


def times(teacher: Teacher, seconds: int, bfloat16: bool, rounds: int) -> Times:
    """Returns what a batch of clips costs in the three ways, run in turn."""
    ways = _ways(teacher, torch.randn(CASES[seconds], 16000 * seconds), bfloat16)
    taken = {name: torch.tensor(seconds) for name, seconds in take_turns(ways, rounds).items()}
    pooled, naive = (float((taken[name] / taken["plain"]).median()) for name in ("pooled", "naive"))
    return Times(float(taken["plain"].median()), pooled, naive)


def peak_bytes(name: str, way: str, seconds: int) -> int:
    """Returns the peak memory of a process that does one batch in one of the ways, all in all."""
    arguments = [sys.executable, "-m", "pipeline.bench.stage_one", name, way, str(seconds)]
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


def main() -> None:
    """Prints the tables. All is done by one thread, as each of stage one's forward passes is on a CPU."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for bfloat16 in (False, True):
        precision = "bfloat16" if bfloat16 else "float32"
        print(f"\nstage one, {precision}, one thread: time beside the plain forward pass (fused attention, no maps)")
        for name in TEACHERS:
            teacher = teacher_of(name)
            for seconds in CASES:
                cost = times(teacher, seconds, bfloat16, rounds=2 if name == "XLSR" else 3)
                print(
                    f"  {name:<7} {seconds:>2} s: pooled {cost.pooled:.2f}, "
                    f"all maps and full rollout {cost.naive:.2f}   ({cost.plain_seconds:.2f} s a batch)",
                    flush=True,
                )
    print("\nstage one, float32: peak memory of the process beside the plain forward pass's")
    for name in _SHAPES:
        for seconds in (8, 30):
            plain, pooled, naive = (peak_bytes(name, way, seconds) for way in ("plain", "pooled", "naive"))
            print(
                f"  {name:<7} {seconds:>2} s: pooled {pooled / plain:.2f}, all maps {naive / plain:.2f}"
                f"   ({plain / 1e9:.2f} GB)",
                flush=True,
            )
    print("\nstage one: largest difference of the rollout to the full-matrix definition in float64")
    for name in _SHAPES:
        teacher = teacher_of(name)
        errors = [f"{rollout_error(teacher, 8, bfloat16):.0e}" for bfloat16 in (False, True)]
        print(f"  {name:<7}  8 s: float32 {errors[0]}, bfloat16 {errors[1]}")
    torch.set_num_threads(n_threads)


if __name__ == "__main__":
    _name, _way, _seconds = sys.argv[1:]
    _ways(teacher_of(_name), torch.randn(1, 16000 * int(_seconds)), False)[_way]()
    print(peak_memory())
