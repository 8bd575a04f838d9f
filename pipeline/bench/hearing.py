"""What stage one makes of recordings, and how near that is to what an augmentation makes of a cache."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from pipeline.bench.recordings import Waveforms
from pipeline.data.clip import Clip
from pipeline.data.manifest import Manifest
from pipeline.distill.data import Clips
from pipeline.extract.attention import pool_attention
from pipeline.extract.features import LogMel
from pipeline.frames import without_readout
from pipeline.tasks import label_tensor
from pipeline.teacher.clips import collate
from pipeline.teacher.model import Teacher


@dataclass(frozen=True)
class Truth:
    """How true an augmentation's targets are, over clips; cosines are between weights without the readout's place."""

    n_clips: int
    cosine: float  # of the weights that the augmentation gives to the live teacher's, mean
    worst: float
    unchanged: float  # of the clean clip's weights to the live teacher's, mean
    layers: float  # as cosine, of each layer's weights
    same_class: float  # share of clips (multi_label: of classes) of which the teacher says the same as of the clean one
    features_db: float  # mean difference of the features to those of the recording
    apart_db: float  # mean difference of the clean features to those of the recording

    @classmethod
    def of(cls, each: Tensor) -> "Truth":
        """Returns the means over clips, (n, 6) as `compared` gives them."""
        cosine, *means = each.mean(dim=0).tolist()
        return cls(len(each), cosine, float(each[:, 0].min()), *means)


@dataclass(frozen=True)
class Heard:
    """What a cache holds of clips, and the weights of each layer (n, n_layers, T)."""

    clips: Clips
    layers: Tensor


def hear(manifest: Manifest, clips: Sequence[Clip], waveforms: Waveforms, teacher: Teacher, log_mel: LogMel) -> Heard:
    """Returns what stage one makes of recordings, to float16 as a cache has it.

    Args:
        manifest: The dataset of the clips.
        clips: Rows of the manifest; labels and events are theirs.
        waveforms: What is heard in their place.
        teacher: In eval mode.
        log_mel: The front end.
    """
    n, config = len(waveforms), log_mel.config
    lengths, n_frames = ([count(len(wave)) for wave in waveforms] for count in (config.n_frames, teacher.n_frames))
    features = torch.zeros(n, config.n_mels, max(lengths))
    rollout = torch.zeros(n, max(n_frames))
    layers = torch.zeros(n, teacher.encoder.config.num_hidden_layers, max(n_frames))
    logits = torch.zeros(n, len(manifest.info.labels))
    in_order = sorted(range(n), key=lambda row: len(waveforms[row]))
    for _, group in groupby(in_order, key=lambda row: len(waveforms[row])):
        same = list(group)
        for rows in (same[at : at + 16] for at in range(0, len(same), 16)):
            inputs = collate([{"waveform": waveforms[row]} for row in rows], teacher.do_normalize)["input_values"]
            pooled = pool_attention(teacher, inputs)
            width = pooled.rollout.shape[1]
            rollout[rows, :width], logits[rows] = pooled.rollout, pooled.logits
            layers[rows, :, :width] = pooled.head_weights.mean(dim=2)
            for row in rows:
                features[row, :, : lengths[row]] = torch.from_numpy(log_mel(waveforms[row]))
    info = manifest.info
    heard = Clips(
        np.array([clip.clip_id for clip in clips]),
        features.half(),
        torch.tensor(lengths),
        label_tensor(info.task, [clip.labels for clip in clips], len(info.labels)),
        without_readout(rollout.half().float(), teacher.readout),
        torch.tensor(n_frames),
        torch.tensor([clip.event_start for clip in clips]),
        torch.tensor([clip.event_stop for clip in clips]),
        logits.half().float(),
    )
    return Heard(heard, layers)


def compared(clean: Heard, ours: Heard, live: Heard) -> Tensor:
    """Returns for each clip, (n, 6), what `Truth` has the means of: all but `n_clips` and `worst`, in that order.

    Args:
        clean: The clips as they were.
        ours: What they were made.
        live: What is heard of the recordings that were changed in the same way.
    """
    rows = []
    for row in range(len(live.clips)):
        n, n_features = int(live.clips.weight_lengths[row]), int(live.clips.lengths[row])
        heard = live.clips.features[row, :, :n_features].float()
        rows.append(
            [
                _cosine(ours.clips.weights[row], live.clips.weights[row], n),
                _cosine(clean.clips.weights[row], live.clips.weights[row], n),
                _cosine(ours.layers[row], live.layers[row], n),
                _agreement(clean.clips, live.clips, row),
                _apart(ours.clips.features[row], heard),
                _apart(clean.clips.features[row], heard),
            ]
        )
    return torch.tensor(rows)


def _cosine(ours: Tensor, live: Tensor, n_frames: int) -> float:
    """Returns the mean cosine over all but the first of a clip's frames; frames that one side lacks are 0 there."""
    sides = [torch.nn.functional.pad(side, (0, max(0, n_frames - side.shape[-1]))) for side in (ours, live)]
    return float(torch.cosine_similarity(*(side[..., 1:n_frames] for side in sides), dim=-1).mean())


def _agreement(clean: Clips, live: Clips, row: int) -> float:
    """Returns 1 where a clip's logits mean the same class; of a clip with several, the share of classes."""
    before, after = clean.teacher_logits[row], live.teacher_logits[row]
    if clean.labels.ndim == 1:
        return float(before.argmax() == after.argmax())
    return float(((before > 0) == (after > 0)).float().mean())


def _apart(ours: Tensor, heard: Tensor) -> float:
    """Returns the mean difference in dB over the frames that both have."""
    n = min(ours.shape[1], heard.shape[1])
    return float((ours[:, :n].float() - heard[:, :n]).abs().mean() * 20 / np.log(10))
