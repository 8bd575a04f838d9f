"""Scoring a teacher: accuracy, and how much of its rollout lies inside the events."""

from dataclasses import dataclass

import torch

from pipeline.data.manifest import Manifest
from pipeline.errors import TkdError
from pipeline.extract.attention import pool_attention
from pipeline.frames import FrameGrid, mean_share, share_in_event, without_readout
from pipeline.progress import track
from pipeline.teacher.clips import WholeClips, collate
from pipeline.teacher.model import Teacher, best_device, require_lengths


@dataclass(frozen=True)
class TeacherScores:
    """Of one split. Shares leave the rollout's first frame out, and are None where no clip's event is known."""

    accuracy: float
    attention_in_event: float | None
    uniform_attention_in_event: float | None  # what equal weights would give: the events' share of the clips
    n_clips: int


def evaluate_teacher(teacher: Teacher, manifest: Manifest, split: str) -> TeacherScores:
    """Returns the teacher's scores on the clips of a split, one clip at a time, in float32.

    Raises:
        TkdError: the split has no clips, or the dataset has one too short for the teacher.
    """
    clips = WholeClips(manifest, manifest.split(split))
    if not len(clips):
        raise TkdError(f"{manifest.root}: no {split} clips. Choose another --split, or prepare the dataset again.")
    require_lengths(manifest, teacher.min_samples)
    device = best_device()
    teacher.to(device)
    grid = FrameGrid(teacher.hop_length, teacher.frame_offset)
    right, shares, uniform = [], [], []
    for index in track(range(len(clips)), "scoring the teacher", len(clips), "clips"):
        batch, clip = collate([clips[index]]), clips.clips[index]
        pooled = pool_attention(teacher, batch["input_values"].to(device))
        event = torch.tensor([clip.event_start]), torch.tensor([clip.event_stop])
        right.append(int(pooled.logits.argmax()) == clip.labels[0])
        rollout = pooled.rollout.cpu()
        for weights, found in ((rollout, shares), (torch.ones_like(rollout), uniform)):
            found.append(share_in_event(without_readout(weights, teacher.readout), grid, *event))
    accuracy = sum(right) / len(clips)
    return TeacherScores(accuracy, mean_share(torch.cat(shares)), mean_share(torch.cat(uniform)), len(clips))
