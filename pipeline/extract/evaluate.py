"""Scoring a teacher: the task's metric, and how much of its rollout lies inside the events."""

from dataclasses import dataclass

import torch

from pipeline.data.audio import render_clip, to_waveform
from pipeline.data.manifest import Manifest
from pipeline.errors import TkdError
from pipeline.extract.attention import pool_attention
from pipeline.frames import FrameGrid, mean_share, share_in_event, without_readout
from pipeline.progress import track
from pipeline.tasks import METRICS, label_tensor, task_score
from pipeline.teacher.clips import collate
from pipeline.teacher.model import Teacher, best_device, require_lengths


@dataclass(frozen=True)
class TeacherScores:
    """Of one split. Shares leave the readout's own place out, and are None where no clip's event is known."""

    metric: str  # the task's: accuracy or mAP
    value: float  # of the metric, 0 to 1
    attention_in_event: float | None
    uniform_attention_in_event: float | None  # what equal weights would give: the events' share of the clips
    n_clips: int


def evaluate_teacher(teacher: Teacher, manifest: Manifest, split: str) -> TeacherScores:
    """Returns the teacher's scores on the clips of a split, one clip at a time, in float32.

    Raises:
        TkdError: the split has no clips, or none with a label, or the dataset has one too short for the teacher.
    """
    clips, info = manifest.split(split), manifest.info
    if not any(clip.labels for clip in clips):
        raise TkdError(
            f"{manifest.root}: no {split} clips{' with a label' if clips else ''}. Choose another --split, or prepare "
            "the dataset again."
        )
    require_lengths(manifest, teacher.min_samples)
    device = best_device()
    teacher.to(device)
    grid = FrameGrid(teacher.hop_length, teacher.frame_offset)
    logits, shares, uniform = [], [], []
    for clip in track(clips, "scoring the teacher", len(clips), "clips"):
        waveform = to_waveform(render_clip(manifest.audio_root, clip))
        inputs = collate([{"waveform": waveform}], teacher.do_normalize)["input_values"]
        pooled = pool_attention(teacher, inputs.to(device))
        logits.append(pooled.logits.cpu())
        event = torch.tensor([clip.event_start]), torch.tensor([clip.event_stop])
        rollout = pooled.rollout.cpu()
        for weights, found in ((rollout, shares), (torch.ones_like(rollout), uniform)):
            found.append(share_in_event(without_readout(weights, teacher.readout), grid, *event))
    labels = label_tensor(info.task, [clip.labels for clip in clips], len(info.labels))
    value = task_score(info.task, torch.cat(logits), labels)
    return TeacherScores(
        METRICS[info.task], value, mean_share(torch.cat(shares)), mean_share(torch.cat(uniform)), len(clips)
    )
