"""A small data set like `mini`, for what must be measured through all of stage one."""

import os
from pathlib import Path

from pipeline.bench.sections.stage_two import SECONDS
from pipeline.data.manifest import Manifest
from pipeline.data.prepare import prepare
from pipeline.data.spoken.synth import SynthConfig, make_synth


def spoken(folder: Path, n_clips: int) -> Manifest:
    """Returns a prepared data set in `folder` with about `n_clips` training clips, and 24 in the other splits together.

    Raises:
        TkdError: it cannot be made.
    """
    config = SynthConfig(
        name="bench", clips=(n_clips, 12, 12), length_seconds=float(SECONDS), noise_recordings=(1, 1, 1), seed=5
    )
    return prepare(folder / "data", config.recipe(), lambda work: make_synth(work, config, os.cpu_count() or 1))
