"""A clip of a dataset: one row of its manifest."""

from dataclasses import dataclass

SPLITS = ("train", "validation", "test")
SAMPLE_RATE = 16000  # Hz, of every rendered clip


@dataclass(frozen=True)
class Clip:
    """One row of the manifest. Times are samples at the dataset's rate; files are relative to its audio_root."""

    clip_id: str  # unique; the key
    split: str  # train, validation or test
    labels: tuple[int, ...]  # indices into DatasetInfo.labels; exactly one for single_label
    n_samples: int
    speech_file: str | None = None  # the recording
    speech_offset: int = 0  # sample of the clip at which the recording begins
    speech_gain: float = 1.0  # stored, not derived when reading: the same samples on any machine
    noise_file: str | None = None
    noise_offset: int = 0  # sample of the noise recording at which the clip begins
    noise_gain: float = 0.0
    snr_db: float | None = None
    event_start: int = -1  # -1: unknown, or no event
    event_stop: int = -1
    speaker: str | None = None
    speech_start: int = 0  # of the recording this part is heard, in samples at its own rate
    speech_stop: int | None = None  # the sample after it; None: to the recording's end
    speed_percent: int = 100  # how fast the recording is played; its pitch follows
    view: int = 0  # 0: the clip itself; 1, 2, ...: another rendering of it, to train on
    noise_start: int = 0  # of the noise recording this stretch belongs to the clip's split, in samples at SAMPLE_RATE:
    noise_stop: int | None = None  # the noise begins again at its start where it ends; None: the recording's end
