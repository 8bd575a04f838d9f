"""What storing attention costs in bytes, and what it loses: `python -m pipeline.bench.coding_curve data/mini`."""

from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from numcodecs import Blosc

from cache_schema import DELTA_UINT8, decode_weights, encode_weights
from pipeline.data.manifest import read_manifest
from pipeline.extract.attention import pool_attention
from pipeline.teacher.clips import WholeClips, collate
from pipeline.teacher.model import load_teacher

_N_CLIPS = 256
_XLSR_WEIGHTS = 24 * 16 * 50  # weights per second of audio: layers, heads, frames per second


def curve(weights: np.ndarray, valid: np.ndarray) -> list[tuple[str, float, float, float]]:
    """Returns of each coding its name, bits a weight, mean and maximal KL(weights || decoded) of a row, nats.

    Args:
        weights: (clip, ..., frame), float32, sum 1 over the valid frames.
        valid: (clip, 1, ..., frame), bool.
    """
    codings: dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]] = {
        "float16": lambda: (weights.astype(np.float16), weights.astype(np.float16)),
        "8 bits, even in the logarithm": lambda: _logarithmic(weights, valid),
    }
    for factor in (0.5, 1, 2, 4):
        coding = {**DELTA_UINT8, "step": DELTA_UINT8["step"] * factor}
        codings[f"{coding['name']}, step {coding['step']:g}"] = lambda coding=coding: (
            codes := encode_weights(weights, valid, coding),
            decode_weights(codes, coding),
        )
    n_weights = np.broadcast_to(valid, weights.shape).sum()
    rows = []
    for name, run in codings.items():
        codes, decoded = run()
        divergence = _kl(weights, decoded)
        rows.append((name, 8 * _squeezed(codes) / n_weights, divergence.mean(), divergence.max()))
    return rows


def _logarithmic(weights: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For comparison: 255 levels even in the logarithm, from 1e-6 to 1."""
    codes = np.rint(np.log(np.maximum(weights, 1e-6) / 1e-6) * (254 / np.log(1e6))).astype(np.uint8)
    return np.where(valid, codes + 1, 0).astype(np.uint8), np.where(valid, 1e-6 * 1e6 ** (codes / 254), 0)


def _kl(weights: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """KL(weights || decoded) of each row, nats, both made to sum to 1; infinite where a weight decodes to 0."""
    weights, decoded = (values / values.sum(axis=-1, keepdims=True, dtype=np.float64) for values in (weights, decoded))
    seen = weights > 0
    with np.errstate(divide="ignore"):
        return (weights * np.log(np.where(seen, weights, 1) / np.where(seen, decoded, 1))).sum(axis=-1)


def _squeezed(codes: np.ndarray) -> int:
    """Bytes in chunks of 64 clips, packed as a Zarr cache packs codes, and numbers."""
    codec = Blosc("zstd", 1, Blosc.NOSHUFFLE) if codes.dtype == np.uint8 else Blosc("zstd", 5, Blosc.SHUFFLE)
    return sum(len(codec.encode(np.ascontiguousarray(codes[i : i + 64]))) for i in range(0, len(codes), 64))


@click.command()
@click.argument("data")
@click.option("--teacher", "teacher_name", default="bundled", show_default=True)
def main(data: str, teacher_name: str) -> None:
    """Print the curve of head and layer weights, on clips of the test split of the prepared data set DATA."""
    manifest, teacher = read_manifest(Path(data)), load_teacher(teacher_name)[0]
    clips = WholeClips(manifest, manifest.split("test")[:_N_CLIPS])
    batches = (collate([clips[i]], teacher.do_normalize) for i in range(len(clips)))
    pooled = [pool_attention(teacher, batch["input_values"]).head_weights[0] for batch in batches]
    lengths = np.array([heads.shape[-1] for heads in pooled])
    weights = np.zeros((len(pooled), *pooled[0].shape[:2], lengths.max()), np.float32)
    for row, heads in zip(weights, pooled, strict=True):
        row[..., : heads.shape[-1]] = heads.cpu()
    valid = (np.arange(lengths.max()) < lengths[:, None])[:, None]  # (clip, 1, frame)
    for title, values, where, per_second in (
        ("head weights", weights, valid[:, None], _XLSR_WEIGHTS),
        ("layer weights", weights.mean(axis=2), valid, _XLSR_WEIGHTS // 16),
    ):
        print(f"{title} {values.shape}; kB per second of audio as if of 24 layers of 16 heads, 50 frames a second")
        for name, bits, mean, largest in curve(values, where):
            kilobytes = bits * per_second / 8000
            print(f"  {name:<30} {bits:5.2f} bits  {kilobytes:6.2f} kB/s  KL mean {mean:.1e}, max {largest:.1e}")


if __name__ == "__main__":
    main()
