"""Scoring a teacher: accuracy, and how much of its rollout lies inside the events."""

from dataclasses import dataclass

import numpy as np
import torch

from pipeline.data.manifest import Manifest
from pipeline.errors import TkdError
from pipeline.extract.attention import pool_attention
from pipeline.frames import FrameGrid, share_in_event, without_first
from pipeline.progress import track
from pipeline.teacher.clips import WholeClips, collate
from pipeline.teacher.model import Teacher


@dataclass(frozen=True)
class TeacherScores:
    """Of one split. Shares leave the rollout's first frame out, and are NaN where no event is known."""

    accuracy: float
    attention_in_event: float
    uniform_attention_in_event: float  # what equal weights would give: the events' share of the clips
    n_clips: int


def evaluate_teacher(teacher: Teacher, manifest: Manifest, split: str) -> TeacherScores:
    """Returns the teacher's scores on the clips of a split, one clip at a time, in float32.

    Raises:
        TkdError: the split has no clips.
    """
    clips = WholeClips(manifest, manifest.split(split))
    if not len(clips):
        raise TkdError(f"{manifest.root}: no {split} clips.")
    grid = FrameGrid(teacher.hop_length, teacher.frame_offset)
    right, shares, uniform = [], [], []
    for index in track(range(len(clips)), "scoring the teacher", len(clips), "clips"):
        batch, clip = collate([clips[index]]), clips.clips[index]
        pooled = pool_attention(teacher, batch["input_values"])
        event = torch.tensor([clip.event_start]), torch.tensor([clip.event_stop])
        right.append(int(pooled.logits.argmax()) == clip.labels[0])
        weights = without_first(pooled.rollout)
        shares.append(float(share_in_event(weights, grid, *event)))
        uniform.append(float(share_in_event(without_first(torch.ones_like(weights)), grid, *event)))
    return TeacherScores(float(np.mean(right)), float(np.nanmean(shares)), float(np.nanmean(uniform)), len(clips))
