"""What a trained student hears in a recording: the front end that its run states, then the student."""

import numpy as np
import torch

from pipeline.data.clip import SAMPLE_RATE
from pipeline.distill.run import Run
from pipeline.errors import TkdError
from pipeline.extract.features import LogMel, LogMelConfig


class Predictor:
    """A run's student with its front end."""

    def __init__(self, run: Run) -> None:
        """Takes the student of a complete run.

        Raises:
            TkdError: its features are not of a front end that this version computes from recordings as it reads them.
        """
        self.labels: list[str] = run.config["labels"]
        self.config = LogMelConfig.from_metadata(run.config["features"])
        if self.config.sample_rate != SAMPLE_RATE:
            raise TkdError(
                f"{run.path}: a student of features at {self.config.sample_rate} Hz; tkd reads recordings at "
                f"{SAMPLE_RATE} Hz. Make its features yourself and call its student."
            )
        self._log_mel, self._student = LogMel(self.config), run.student
        self._exclusive = run.task == "single_label"

    @torch.inference_mode()
    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        """Returns the probability of each label, (n_classes,) float32; of a single-label run they sum to 1.

        Args:
            waveform: (n_samples,) float32, mono, at SAMPLE_RATE, full scale 1.

        Raises:
            TkdError: it is too short for the student.
        """
        shortest = self.config.n_samples(self._student.min_frames)
        if len(waveform) < shortest:
            raise TkdError(
                f"{len(waveform)} samples, expected at least {shortest} for {self._student.name}. Pad with silence."
            )
        logits = self._student(torch.from_numpy(self._log_mel(waveform))[None]).logits[0]
        return (logits.softmax(0) if self._exclusive else logits.sigmoid()).numpy()
