"""Run directories with scores that are planted, not trained: what a report must give back."""

import dataclasses
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

from cache_schema import Cache
from pipeline.distill.config import TrainConfig
from students import build_student, count_parameters

TEACHER = {"name": "small", "n_params": 967996, "test": 0.88, "attention_in_event": 0.67, "imported": False}


def make_run(
    out: Path,
    cache: Cache,
    share_correct: float,
    in_event: float = 0.3,
    dataset: str | None = None,
    parts: tuple[str, ...] = ("model", "test", "history"),
    **settings,
) -> Path:
    """A run whose student gets so many of the test clips right, whatever its weights are.

    Args:
        share_correct: To the clip: that many have their label's logit highest.
        in_event: Share of its attention in the events.
        dataset: Another name than the cache's.
        parts: Files beside config.json and metrics.json.
        settings: Of `TrainConfig`, or others a config.json may hold.
    """
    config = {**json.loads(json.dumps(dataclasses.asdict(TrainConfig()))), "frame_weights": "rollout", **settings}
    config |= {"cache": cache.location, "cache_id": cache.metadata["cache_id"]}
    config |= {"labels": cache.labels, "features": cache.metadata["features"]}
    rows = cache.split_rows("test")
    single = cache.task == "single_label"
    labels = cache.read("label" if single else "labels")[rows]
    rng = np.random.default_rng([config["seed"], int(1000 * config["kd_weight"]), len(config["student"])])
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
        "dataset": dataset or cache.metadata["dataset"]["name"],
        "cache_id": config["cache_id"],
        "kd_weight": config["kd_weight"],
        "logit_kd": config.get("logit_kd", 0.0),
        "seed": config["seed"],
        "metric": "accuracy" if single else "mAP",
        "validation": min(1.0, share_correct + 0.02),
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
        save_file(query, out / "query.safetensors")
    if "test" in parts:
        shares = np.full(len(rows), in_event, np.float32)
        save_file({"logits": logits, "attention_in_event": shares}, out / "test.safetensors")
    if "history" in parts:
        (out / "history.json").write_text(json.dumps(history), encoding="utf-8")
    (out / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    return out
