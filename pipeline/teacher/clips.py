"""Clips as a teacher takes them: rendered from the manifest, cropped or mixed afresh for training, batched."""

import dataclasses
import zlib

import numpy as np
import torch
from torch.utils.data import Dataset

from pipeline.data.audio import render_clip, to_waveform
from pipeline.data.manifest import Clip, Manifest
from pipeline.data.mixing import MixRecipe, mix
from pipeline.teacher.model import normalise


class TrainingClips(Dataset):
    """The training split, as one epoch sees it.

    Clips mixed from speech and noise are mixed afresh for every epoch (another noise crop, SNR and position), at the
    crop's length if one is set; others are cropped around their event where it is known, else anywhere. What an epoch
    draws depends on seed, epoch and clip_id only.
    """

    def __init__(self, manifest: Manifest, seed: int, remix: bool = True) -> None:
        self.clips = manifest.split("train")
        self.root = manifest.audio_root
        self.seed = seed
        self.epoch = 0
        self.n_samples: int | None = None  # crop; None: whole clips
        self.noise_files = sorted({clip.noise_file for clip in self.clips if clip.noise_file})
        self.snr_db = tuple(manifest.info.recipe["snr_db"]) if remix and self.noise_files else None

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict:
        clip = self.clips[index]
        rng = np.random.default_rng([self.seed, self.epoch, zlib.crc32(clip.clip_id.encode())])
        if self.snr_db is not None:
            recipe = MixRecipe(self.n_samples or clip.n_samples, self.snr_db)
            fresh = dataclasses.replace(clip, speech_offset=0)
            return to_example(self.root, mix(fresh, self.root, self.noise_files, recipe, rng))
        example = to_example(self.root, clip)
        if self.n_samples is not None and self.n_samples < clip.n_samples:
            start = crop_start(clip, self.n_samples, rng)
            example["waveform"] = example["waveform"][start : start + self.n_samples]
        return example


class WholeClips(Dataset):
    """Clips as the manifest has them, in the order given."""

    def __init__(self, manifest: Manifest, clips: list[Clip]) -> None:
        self.clips, self.root = clips, manifest.audio_root

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict:
        return to_example(self.root, self.clips[index])


def to_example(root, clip: Clip) -> dict:
    """Returns the clip's `waveform`, float32 (n_samples,) in [-1, 1), and its `label`."""
    return {"waveform": to_waveform(render_clip(root, clip)), "label": clip.labels[0]}


def crop_start(clip: Clip, n_samples: int, rng: np.random.Generator) -> int:
    """Returns where a crop of `n_samples` starts that holds the event, or as much of its start as fits."""
    low, high = 0, clip.n_samples - n_samples
    if clip.event_start >= 0:
        low = min(max(low, clip.event_stop - n_samples), clip.event_start)
        high = max(low, min(high, clip.event_start))
    return int(rng.integers(low, high + 1))


def collate(examples: list[dict]) -> dict[str, torch.Tensor]:
    """Returns a teacher batch: clips normalised one by one, then padded with zeros; a mask only if lengths differ."""
    waveforms = [torch.from_numpy(normalise(example["waveform"])) for example in examples]
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    batch = {
        "input_values": torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True),  # (batch, n_samples)
        "labels": torch.tensor([example["label"] for example in examples]),
    }
    if lengths.min() < lengths.max():
        batch["attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    return batch
