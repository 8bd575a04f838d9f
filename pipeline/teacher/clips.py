"""Clips as a teacher takes them: rendered from the manifest, cropped or mixed afresh for training, batched."""

import dataclasses
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from pipeline.data.audio import render_clip, to_waveform
from pipeline.data.clip import Clip
from pipeline.data.manifest import Manifest
from pipeline.data.mixing import MixRecipe, mix, noise_regions
from pipeline.tasks import label_tensor
from pipeline.teacher.model import normalise


class TrainingClips(Dataset):
    """The training split, as one epoch sees it.

    Clips mixed from speech and noise are mixed afresh for every epoch (another noise crop, SNR and position), at the
    crop's length if one is set; their noise stays within the training split's stretches. Others are cropped around
    their event where it is known, else anywhere. What an epoch draws depends on seed, epoch, clip_id and length only.
    """

    def __init__(self, manifest: Manifest, seed: int, remix: bool = True, equal_lengths: bool = False) -> None:
        """With `equal_lengths` the clips of a batch are all as long as its shortest, so that none is padded."""
        self.manifest = manifest
        self.clips = manifest.split("train")
        self.root = manifest.audio_root
        self.seed = seed
        self.equal_lengths = equal_lengths
        self.epoch = 0
        self.n_samples: int | None = None  # crop; None: whole clips
        self.noise = noise_regions(self.clips)
        snr_db = manifest.info.recipe.get("snr_db")  # none where silence alone is noise
        self.snr_db = tuple(snr_db) if remix and self.noise and snr_db is not None else None

    def __len__(self) -> int:
        return len(self.clips)

    def length(self, index: int) -> int:
        """Returns the samples of a clip in this epoch, before those of its batch are made equal."""
        whole = self.clips[index].n_samples
        if self.n_samples is None:
            return whole
        return self.n_samples if self.snr_db is not None else min(self.n_samples, whole)

    def __getitem__(self, index: int) -> dict:
        return self._example(index, self.length(index))

    def __getitems__(self, indices: Sequence[int]) -> list[dict]:
        """Returns a batch's examples; torch's DataLoader asks for them together."""
        lengths = [self.length(index) for index in indices]
        if self.equal_lengths:
            lengths = [min(lengths)] * len(lengths)
        return [self._example(index, n_samples) for index, n_samples in zip(indices, lengths, strict=True)]

    def _example(self, index: int, n_samples: int) -> dict:
        clip = self.clips[index]
        rng = np.random.default_rng([self.seed, self.epoch, zlib.crc32(clip.clip_id.encode())])
        if self.snr_db is not None:
            recipe = MixRecipe(n_samples, self.snr_db)
            fresh = dataclasses.replace(clip, speech_offset=0)
            return to_example(self.manifest, mix(fresh, self.root, self.noise, recipe, rng))
        example = to_example(self.manifest, clip)
        if n_samples < clip.n_samples:
            start = crop_start(clip, n_samples, rng)
            example["waveform"] = example["waveform"][start : start + n_samples]
        return example


class WholeClips(Dataset):
    """Clips as the manifest has them, in the order given."""

    def __init__(self, manifest: Manifest, clips: list[Clip]) -> None:
        self.clips, self.manifest = clips, manifest

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict:
        return to_example(self.manifest, self.clips[index])


class LikeLengths(Sampler):
    """Draws training clips so that those of a batch are of like length; the order depends on seed and epoch alone."""

    def __init__(self, clips: TrainingClips, batch_size: int) -> None:
        self.clips, self.batch_size = clips, batch_size

    def __len__(self) -> int:
        return len(self.clips)

    def __iter__(self) -> Iterator[int]:
        lengths = [self.clips.length(index) for index in range(len(self.clips))]
        (seed,) = np.random.SeedSequence([self.clips.seed, self.clips.epoch]).generate_state(1)
        drawn = torch.Generator().manual_seed(int(seed))
        return iter(get_length_grouped_indices(lengths, self.batch_size, generator=drawn))


def to_example(manifest: Manifest, clip: Clip) -> dict:
    """Returns the clip's `waveform`, float32 (n_samples,) in [-1, 1), and its `labels` as `task_loss` takes them."""
    info = manifest.info
    return {
        "waveform": to_waveform(render_clip(manifest.audio_root, clip)),
        "labels": label_tensor(info.task, [clip.labels], len(info.labels))[0],
    }


def crop_start(clip: Clip, n_samples: int, rng: np.random.Generator) -> int:
    """Returns where a crop of `n_samples` starts that holds the event, or as much of its start as fits."""
    low, high = 0, clip.n_samples - n_samples
    if clip.event_start >= 0:
        low = min(max(low, clip.event_stop - n_samples), clip.event_start)
        high = max(low, min(high, clip.event_start))
    return int(rng.integers(low, high + 1))


def collate(examples: list[dict], do_normalize: bool = True) -> dict[str, torch.Tensor]:
    """Returns a teacher batch: waveforms padded with zeros, a mask if lengths differ, labels if the examples have some.

    Args:
        examples: Each with a `waveform`, float32 (n_samples,), and perhaps `labels`.
        do_normalize: The teacher's; each waveform is normalised, before it is padded.
    """
    waveforms = [example["waveform"] for example in examples]
    waveforms = [torch.from_numpy(normalise(waveform) if do_normalize else waveform) for waveform in waveforms]
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    batch = {"input_values": torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True)}  # (batch, n_samples)
    if "labels" in examples[0]:
        batch["labels"] = torch.stack([example["labels"] for example in examples])
    if lengths.min() < lengths.max():
        batch["attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    return batch
