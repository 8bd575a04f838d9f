"""`tkd export`: from a complete run to one file, and how far that is from the student it was made of."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch

from cache_schema import Cache, CacheError
from pipeline.distill.data import Split, load_splits
from pipeline.distill.run import Run, write_whole
from pipeline.errors import TkdError
from pipeline.export.graph import Heard, front_end_graph, joined, student_graph
from pipeline.export.int8 import quantized
from pipeline.export.model import Card, Model, session, stated
from pipeline.extract.features import LogMel, LogMelConfig
from pipeline.frames import student_grid
from pipeline.lock import only_one
from pipeline.progress import say
from pipeline.tasks import task_score

_CALIBRATED_ON = 100  # training clips
_MOST = 1e-3  # by which a probability in float32 may differ; 1e-6 is usual
_OF_THE_RUN = ("dataset", "cache_id", "kd_weight", "logit_kd", "frame_weights", "seed", "metric", "validation", "test")


@dataclass(frozen=True)
class Exported:
    """What came of an export.

    Attributes:
        n_bytes: Of the file.
        difference: The largest, of a probability, to the run's student on noise.
        metric: accuracy or mAP.
        test: Of the model on the test split's features; None without a cache whose clips are all of the model's length.
    """

    n_bytes: int
    difference: float
    metric: str
    test: float | None


def export(
    run: Run, out: Path, n_samples: int, cache: Cache | None = None, int8: bool = False, force: bool = False
) -> Exported:
    """Writes a run's student, from samples to probabilities and attention, as an ONNX graph.

    Args:
        run: A complete run.
        out: The file.
        n_samples: That the model takes at once, at the rate of the run's features.
        cache: Like the run's own: for int8 its training clips set the ranges; its test clips are scored.
        int8: Weights in 8 bits, see `quantized`.
        force: Replace the file.

    Raises:
        TkdError: the file is there, too short for the student, no cache for int8, or the graph does not do what the
            student does.
    """
    config = LogMelConfig.from_metadata(run.config["features"])
    n_frames = config.n_frames(n_samples)
    if n_frames < run.student.min_frames:
        shortest = config.n_samples(run.student.min_frames)
        raise TkdError(
            f"{n_samples / config.sample_rate:g} s, expected at least {shortest / config.sample_rate:g} s for "
            f"{run.student.name}. Give a larger --length."
        )
    if int8 and cache is None:
        raise TkdError(f"{run.path}: int8 takes its ranges from training clips. Give the run's --cache.")
    with only_one(out):
        if out.exists() and not force:
            raise TkdError(f"{out}: already there. Export again with --force, or give another --out.")
        splits = _splits(cache, int8)
        say(f"{run.path}: laying out {run.student.name} for {n_samples / config.sample_rate:g} s")
        student = student_graph(run, n_frames)
        if int8:
            student = quantized(student, _of_length(splits["train"], n_frames))
        model = joined(front_end_graph(config, n_samples), student)
        onnx.helper.set_model_props(model, stated(_card(run, n_samples, "int8" if int8 else "float32")))
        onnx.checker.check_model(model, full_check=True)
        content = model.SerializeToString()
        difference = _difference(run, content, config, n_samples)
        if not int8 and not difference <= _MOST:
            raise TkdError(
                f"{run.path}: as an ONNX graph {run.student.name} differs by {difference:.2g} in a probability, not at "
                f"most {_MOST}. Nothing was written; report it, with the versions of torch, onnx and onnxruntime."
            )
        test = _score(student, splits["test"], n_frames) if splits else None
        write_whole(out, content)
    return Exported(len(content), difference, run.metrics["metric"], test)


def clip_samples(run: Run, cache: Cache) -> int:
    """Returns how many samples the longest clip of a cache has, at the rate of the run's features."""
    return LogMelConfig.from_metadata(run.config["features"]).n_samples(cache.layout.n_feature_frames)


def _splits(cache: Cache | None, int8: bool) -> dict[str, Split]:
    """Returns what can be had of a cache; for int8 what is needed of it."""
    if cache is None:
        return {}
    try:
        return load_splits(cache, names=("train", "test") if int8 else ("test",))
    except (TkdError, CacheError) as error:
        if int8:
            raise
        say(f"not scored: {error}")
        return {}


def _card(run: Run, n_samples: int, precision: str) -> Card:
    grid = student_grid({"features": run.config["features"]}, run.student)
    return Card(
        labels=tuple(run.config["labels"]),
        task=run.task,
        sample_rate=run.config["features"]["sample_rate"],
        n_samples=n_samples,
        frame_hop=grid.hop_length,
        frame_offset=grid.offset,
        precision=precision,
        student=run.student.name,
        run={name: run.metrics.get(name, run.config.get(name)) for name in _OF_THE_RUN},  # earlier ones state fewer
    )


def _of_length(split: Split, n_frames: int) -> list[np.ndarray]:
    """Returns features (n_mels, n_frames) of clips from all over a split; shorter ones are repeated."""
    clips = split.take(np.linspace(0, len(split) - 1, min(_CALIBRATED_ON, len(split))).astype(int))
    found = []
    for features, length in zip(clips.features.float().numpy(), clips.lengths.tolist(), strict=True):
        found.append(features[:, np.arange(n_frames) % length])
    return found


@torch.inference_mode()
def _difference(run: Run, content: bytes, config: LogMelConfig, n_samples: int) -> float:
    """Returns the largest difference of a probability to the run's own front end and student, on noise."""
    noise = 0.1 * np.random.default_rng(0).standard_normal((3, n_samples), dtype=np.float32)
    found, _ = Model(content, str(run.path))(noise)
    log_mel = LogMel(config)
    expected, _ = Heard(run)(torch.stack([torch.from_numpy(log_mel(waveform)) for waveform in noise]))
    return float(np.abs(found - expected.numpy()).max())


def _score(student: onnx.ModelProto, split: Split, n_frames: int) -> float | None:
    if not bool((split.lengths == n_frames).all()):
        return None
    graph = session(student.SerializeToString())
    probabilities = [
        graph.run(["probabilities"], {"features": batch.features.float().numpy()})[0] for batch in split.batches(100)
    ]
    return task_score(split.cache.task, torch.from_numpy(np.concatenate(probabilities)), split.labels)
