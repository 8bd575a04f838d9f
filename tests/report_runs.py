"""Caches and run directories with planted content, neither computed nor trained: what a report must give back."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

from cache_schema import Cache, Layout, create_cache, finalise, open_cache, write_partition
from pipeline.distill.config import TrainConfig
from students import build_student, count_parameters

TEACHER = {"name": "small", "n_params": 967996, "test": 0.88, "attention_in_event": 0.67, "imported": False}
RATE, HOP = 16000, 320
LABELS = ("_silence_", "<b>&\"'", "été", "go")


def pcm(row: int, n_samples: int = 16000) -> np.ndarray:
    """The sound of a row, int16."""
    return (3000 * np.sin(np.arange(n_samples) * (0.02 + 0.001 * row))).astype(np.int16)


def make_cache(
    path: Path,
    n_test: int = 40,
    task: str = "single_label",
    dataset: str = "planted",
    labels: tuple[str, ...] = LABELS,
    keep: str = "heads",
    n_frames: int = 49,
    manifest: str = "b" * 64,
    **recipe,
) -> Cache:
    """A cache of 4 training, 4 validation and `n_test` test clips of a second.

    The event of every second row is its second quarter. There lies all weight of layer 1, head 2; the other maps and
    the rollout are of equal weights.

    Args:
        path: Where to.
        n_test: Test clips.
        task: single_label or multi_label.
        dataset: Its name.
        labels: Of its classes.
        keep: heads or rollout.
        n_frames: Of teacher and features alike.
        manifest: Its digest.
        recipe: Of the data set.
    """
    n = 8 + n_test
    size = 16 if n < 100 else 512
    layout = Layout(n, n_frames, n_frames, 40, len(labels), 2, 3, task, keep, True, size)
    teacher = {"name": "small", "sha256": "a" * 64, "n_layers": 2, "n_heads": 3, "hop_length": HOP, "readout": "mean"}
    teacher |= {"frame_offset": 199.5, "sample_rate": RATE, "score": 0.9, "n_parameters": 967996}
    features = {"kind": "log_mel", "sample_rate": RATE, "hop_length": HOP, "win_length": 640, "n_mels": 40}
    described = {"name": dataset, "manifest_sha256": manifest, "task": task, "licence": "CC0", "recipe": recipe}
    metadata = {"teacher": teacher, "features": features | {"frame_offset": 319.5}, "pooling": {}, "software": {}}
    metadata["dataset"] = described | {"labels": list(labels)}
    index, rng = np.arange(n), np.random.default_rng(5)
    rows = {"clip_id": np.array([f"clip <{i}>" for i in index]), "split": np.repeat([0, 1, 2], [4, 4, n_test])}
    rows["split"] = rows["split"].astype(np.uint8)
    rows |= {name: np.full(n, n_frames, np.int32) for name in ("n_frames", "n_feature_frames")}
    start, stop = HOP * (n_frames // 4), HOP * (n_frames // 2)
    rows |= {"event_start": np.where(index % 2, start, -1), "event_stop": np.where(index % 2, stop, -1)}
    rows["view"] = np.zeros(n, np.uint8)
    if task == "single_label":
        rows["label"] = (index % len(labels)).astype(np.int32)
    else:
        rows["labels"] = (rng.random((n, len(labels))) < 0.4).astype(np.uint8) | np.eye(len(labels), dtype=np.uint8)[
            index % len(labels)
        ]
    weights = np.full((n, 2, 3, n_frames), 1 / n_frames, np.float32)
    centre = 199.5 + HOP * np.arange(n_frames)
    inside = ((centre >= start) & (centre < stop)).astype(np.float32)
    weights[:, 1, 2] = inside / inside.sum()
    content = {"rollout": weights[:, 0, 0], "logits": rng.standard_normal((n, len(labels))).astype(np.float32)}
    if keep == "heads":
        content["head_weights"] = weights
    content["features"] = rng.standard_normal((n, 40, n_frames)).astype(np.float32)
    content["audio_sha256"] = np.array([hashlib.sha256(pcm(i).astype("<i2").tobytes()).hexdigest() for i in index])
    create_cache(path, layout, rows, metadata, False)
    for part in range(layout.n_partitions):
        write_partition(path, part, {name: values[layout.partition_rows(part)] for name, values in content.items()})
    finalise(path)
    return open_cache(path)


def make_run(
    out: Path,
    cache: Cache,
    share_correct: float,
    in_event: float = 0.3,
    validation: float | None = None,
    parts: tuple[str, ...] = ("model", "test", "history"),
    **settings,
) -> Path:
    """A run whose student gets so many of the test clips right, whatever its weights are.

    Args:
        share_correct: To the clip: that many have their label's logit highest.
        in_event: Share of its attention in the events.
        validation: Its best validation score; None: a little more than the test score.
        parts: Files beside config.json and metrics.json.
        settings: Of `TrainConfig`, or others a config.json may hold.
    """
    config = {**json.loads(json.dumps(dataclasses.asdict(TrainConfig()))), "student": "tc_resnet8", **settings}
    config |= {"cache": cache.location, "cache_id": cache.metadata["cache_id"]}
    config |= {"labels": cache.labels, "features": cache.metadata["features"]}
    rows = cache.split_rows("test")
    single = cache.task == "single_label"
    labels = cache.read("label" if single else "labels")[rows]
    rng = np.random.default_rng([config["seed"], int(1000 * config["kd_weight"])])
    logits = rng.standard_normal((len(rows), len(cache.labels))).astype(np.float32)
    right = rng.permutation(len(rows)) < round(share_correct * len(rows))
    if single:
        other = np.where(right, labels, (labels + 1) % len(cache.labels))
        logits[np.arange(len(rows)), other] += 20
        test = float(np.mean(logits.argmax(axis=1) == labels))
    else:
        logits[right] += 10 * labels[right]
        test = share_correct
    student = build_student(config["student"], len(cache.labels), cache.layout.n_features)
    history = [
        {
            "epoch": epoch + 1,
            "task_loss": 2.4 * 0.8**epoch,
            "temporal_kd_loss": 1.5 * 0.9**epoch,
            "logit_kd_loss": 0.0,
            "learning_rate": 3e-3,
            "validation": share_correct * (1 - 0.6**epoch) + 0.01 * rng.standard_normal(),
            "attention_in_event": in_event * (1 - 0.7**epoch),
        }
        for epoch in range(config["epochs"])
    ]
    attention = {
        "in_event": in_event,
        "peak_in_event": min(1.0, 1.3 * in_event),
        "peak_distance_seconds": 1 - in_event,
        "entropy": 4.5 - 2 * in_event,
        "kl_to_teacher": 1.2 - in_event,
    }
    metrics = {
        "student": config["student"],
        "dataset": cache.metadata["dataset"]["name"],
        "cache_id": config["cache_id"],
        "kd_weight": config["kd_weight"],
        "logit_kd": config.get("logit_kd", 0.0),
        "seed": config["seed"],
        "metric": "accuracy" if single else "mAP",
        "validation": min(1.0, share_correct + 0.02) if validation is None else validation,
        "test": test,
        "n_params": count_parameters(student),
        "epochs": config["epochs"],
        "best_epoch": config["epochs"],
        "seconds": 100.0,
        "attention_in_event": in_event,
        "attention": attention,
        "teacher": TEACHER,
        "uniform_attention_in_event": 0.14,
    }
    out.mkdir(parents=True)
    (out / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if "model" in parts:
        save_tensors(student.state_dict(), out / "model.safetensors")
        query = {"query": np.zeros(student.n_channels, np.float32)}
        save_file(query, out / "distillation.safetensors")
    if "test" in parts:
        shares = np.full(len(rows), in_event, np.float32)
        save_file({"logits": logits, "attention_in_event": shares}, out / "test.safetensors")
    if "history" in parts:
        (out / "history.json").write_text(json.dumps(history), encoding="utf-8")
    (out / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    return out
