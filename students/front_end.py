"""The part of a student that is not trained: log-mel features to cepstral coefficients."""

import math

import torch
from torch import Tensor, nn


class Mfcc(nn.Module):
    """Mel-frequency cepstral coefficients of log-mel features: a fixed linear layer.

    DCT-II scaled by 2 / sqrt(2 * n_mels), the first coefficient like all others: the HTK convention of
    `tf.signal.mfccs_from_log_mel_spectrograms`, which kws_streaming (arXiv 2005.06720) uses. torchaudio's and
    librosa's "ortho" differs from it in that first coefficient, by a factor sqrt(2).

    Nothing of it is trained or saved: one cache of log-mel features serves every student, and an exported
    student carries the transform inside.
    """

    dct: Tensor

    def __init__(self, n_mels: int, n_mfcc: int) -> None:
        """Computes the transform.

        Args:
            n_mels: Mel bins of the features.
            n_mfcc: Coefficients kept, counted from the lowest.

        Raises:
            ValueError: If there are fewer mel bins than coefficients.
        """
        super().__init__()
        if n_mels < n_mfcc:
            raise ValueError(
                f"n_mels is {n_mels}, expected at least n_mfcc = {n_mfcc}. Compute the features with more mel bins."
            )
        self.n_mels = n_mels
        self.n_mfcc = n_mfcc
        coefficient = torch.arange(n_mfcc, dtype=torch.float64).unsqueeze(1)
        mel_centre = torch.arange(n_mels, dtype=torch.float64) + 0.5
        dct = math.sqrt(2 / n_mels) * torch.cos(math.pi / n_mels * coefficient * mel_centre)  # (n_mfcc, n_mels)
        self.register_buffer("dct", dct.float(), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Coefficients (batch, n_mfcc, T) of log-mel features (batch, n_mels, T)."""
        return torch.matmul(self.dct, features)

    def extra_repr(self) -> str:
        """The two sizes, for printing."""
        return f"n_mels={self.n_mels}, n_mfcc={self.n_mfcc}"
