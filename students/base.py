"""What every student promises: feature frames in, logits and context representations out."""

from typing import ClassVar, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from students.front_end import Mfcc
from students.masking import valid_mask

Frames = TypeVar("Frames", int, Tensor)


class StudentOutput(NamedTuple):
    """What a student returns; distilling needs nothing else, so no hooks.

    Attributes:
        logits: (batch, n_classes), float32, under autocast of its dtype; before softmax or sigmoid.
        frames: (batch, T_student, n_channels), float32 or autocast's dtype, 0 beyond `lengths`. The context
            representations c' of arXiv 2110.14131, section 2: what the training-only query is dotted with.
        lengths: (batch,), int64, valid student frames, at least 1.
        attention: (batch, T_student), of a floating dtype, the student's own attention, mean over its heads:
            non-negative, sums to 1 over the valid frames, 0 beyond. None for a student without attention.
    """

    logits: Tensor
    frames: Tensor
    lengths: Tensor
    attention: Tensor | None = None


class Student(nn.Module):
    """A small audio classifier over log-mel features.

    What lies beyond a clip's length never reaches its logits or frames: in evaluation mode a clip scores
    the same (to rounding) alone and in a padded batch.

    A subclass defines `encode` and `read_out`, or `compute` where the two cannot be told apart.

    Attributes:
        name: What the registry, the command line and error messages call it.
        paper: Where it is published, for readers.
        n_mfcc: Cepstral coefficients that enter the network; 0 where the log-mel energies themselves do.
        n_channels: Size of the last dimension of `StudentOutput.frames`.
        min_frames: Fewest feature frames that give one student frame.
        stride: Feature frames from one student frame to the next.
        offset: Feature-frame index (may be fractional) of the centre of student frame 0's convolutional receptive
            field: student frame j is centred on feature frame `offset + stride * j`.
        reach: Feature frames that its convolutions see to either side of that centre.
        scope: What else a student frame depends on: nothing ("nearby"), through recurrence every earlier frame
            ("past"), or the whole clip ("clip"), which cannot be streamed.
    """

    name: ClassVar[str]
    paper: ClassVar[str] = ""
    n_mfcc: ClassVar[int]
    n_channels: ClassVar[int]
    min_frames: ClassVar[int] = 1
    stride: ClassVar[int] = 1
    offset: ClassVar[float] = 0.0
    reach: ClassVar[int] = 0
    scope: ClassVar[Literal["nearby", "past", "clip"]] = "nearby"

    def __init__(self, n_mels: int) -> None:
        """Puts the fixed front end in place.

        Args:
            n_mels: Mel bins of the features, at least `n_mfcc`.
        """
        super().__init__()
        self.n_mels = n_mels
        self.mfcc = Mfcc(n_mels, self.n_mfcc) if self.n_mfcc else nn.Identity()

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> StudentOutput:
        """Logits and context representations of a batch of clips.

        Args:
            features: (batch, n_mels, T), float32, natural-log mel energies, as torchaudio's MelSpectrogram orders them.
            lengths: (batch,), integer, valid feature frames of each clip; None when all T are. Best kept on the CPU,
                where reading them stalls no GPU.

        Raises:
            ValueError: If shapes and lengths contradict each other, a clip is shorter than `min_frames`, or the network
                makes other frames than its class states.
        """
        self._check(features, lengths)
        batch, _, n_frames = features.shape
        if lengths is None or int(lengths.min()) == n_frames:  # nothing padded: no masks, no packing
            logits, frames, attention = self.compute(self.mfcc(features), None)
            self._check_frames(frames, n_frames)
            student_lengths = torch.full((batch,), frames.shape[1], device=frames.device)
            return StudentOutput(logits, frames, student_lengths, attention)

        lengths = lengths.to(features.device, torch.int64)
        features = features.masked_fill(~valid_mask(lengths, n_frames).unsqueeze(1), 0.0)
        logits, frames, attention = self.compute(self.mfcc(features), lengths)
        self._check_frames(frames, n_frames)
        return StudentOutput(logits, frames, self.student_lengths(lengths), attention)

    def student_lengths(self, lengths: Frames) -> Frames:
        """Student frames that so many feature frames give: an integer, or an integer tensor of any shape."""
        return (lengths - self.min_frames) // self.stride + 1

    def compute(self, mfcc: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logits, frames and attention, as in `StudentOutput`, of what leaves the front end; see `encode`."""
        frames = self.encode(mfcc, lengths)
        if lengths is not None:
            lengths = self.student_lengths(lengths)
            frames = frames.masked_fill(~valid_mask(lengths, frames.shape[1]).unsqueeze(2), 0.0)
        logits, attention = self.read_out(frames, lengths)
        return logits, frames, attention

    def encode(self, mfcc: Tensor, lengths: Tensor | None) -> Tensor:
        """Context representations.

        Args:
            mfcc: (batch, n_mfcc, T), or (batch, n_mels, T) where `n_mfcc` is 0. 0 beyond `lengths`.
            lengths: (batch,), int64, valid feature frames; None when all are.

        Returns:
            (batch, T_student, n_channels); what stands beyond the valid student frames is ignored.
        """
        raise NotImplementedError(f"{type(self).__name__} defines neither encode and read_out nor compute.")

    def read_out(self, frames: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Logits (batch, n_classes), and attention (batch, T_student) or None.

        Args:
            frames: (batch, T_student, n_channels), 0 beyond `lengths`.
            lengths: (batch,), int64, valid student frames; None when all are.
        """
        raise NotImplementedError(f"{type(self).__name__} defines neither encode and read_out nor compute.")

    def _check(self, features: Tensor, lengths: Tensor | None) -> None:
        if features.ndim != 3 or features.shape[1] != self.n_mels:
            raise ValueError(
                f"{self.name}: features have shape {tuple(features.shape)}, expected (batch, {self.n_mels}, T). "
                "Put the mel bins second, or build the student with the n_mels of the features."
            )
        batch, _, n_frames = features.shape
        shortest = n_frames
        if lengths is not None:
            if lengths.shape != (batch,):
                raise ValueError(
                    f"{self.name}: lengths have shape {tuple(lengths.shape)}, expected ({batch},). "
                    "Give one count of valid feature frames per clip."
                )
            shortest, longest = int(lengths.min()), int(lengths.max())
            if longest > n_frames:
                raise ValueError(
                    f"{self.name}: a clip claims {longest} valid feature frames, the features hold {n_frames}. "
                    "Count lengths in feature frames, not in samples."
                )
        if shortest < self.min_frames:
            raise ValueError(
                f"{self.name}: a clip has {shortest} feature frames, expected at least {self.min_frames}. "
                "Pad the recording with silence or leave it out."
            )

    def _check_frames(self, frames: Tensor, n_frames: int) -> None:
        stated = (self.student_lengths(n_frames), self.n_channels)
        if tuple(frames.shape[1:]) != stated:
            raise ValueError(
                f"{self.name}: {n_frames} feature frames gave frames of shape {tuple(frames.shape)}, expected "
                f"(batch, {stated[0]}, {stated[1]}) by min_frames, stride and n_channels. Mend those or encode."
            )


def count_parameters(module: nn.Module) -> int:
    """Numbers a saved module holds, as Keras counts them: parameters and BatchNorm's moving statistics."""
    return sum(value.numel() for value in module.state_dict().values() if value.is_floating_point())
