"""Views: further renderings of the training clips, stored beside them for students to train on.

Targets that are the same in every epoch can be overfitted; several stored views of a clip, each with targets of its
own, are the published remedy. Here a view differs from its clip in speed, and in noise, SNR and position where the clip
was mixed from speech and noise, else in time shift and gain. Everything drawn is written into its row.
"""

import dataclasses
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.data.audio import speech_length
from pipeline.data.clip import Clip
from pipeline.data.manifest import Manifest, in_order
from pipeline.data.mixing import MixRecipe, NoiseRegion, mix, noise_regions
from pipeline.errors import TkdError
from pipeline.progress import track

_MOST = 254  # a cache numbers them in a byte


@dataclass(frozen=True)
class ViewRecipe:
    """How views are drawn. It stands in the cache, so that another copy of the recordings gives the same views.

    Raises:
        TkdError: numbers that make no sense.
    """

    n: int  # views of each training clip, beside the clip itself
    seed: int
    speed_percent: tuple[int, ...] = (90, 95, 100, 105, 110)  # whole: a simple ratio for the resampler
    shift_seconds: float = 0.1  # at most; of clips that are not mixed, as gain_db
    gain_db: tuple[float, float] = (-10.0, 0.0)  # never louder: a recording may be at full scale

    def __post_init__(self) -> None:
        if not 0 <= self.n <= _MOST:
            raise TkdError(f"views {self.n}: expected 0 to {_MOST}.")
        if not self.seed >= 0:
            raise TkdError(f"seed {self.seed}: expected 0 or more.")
        if not all(type(speed) is int and 50 <= speed <= 200 for speed in self.speed_percent):
            raise TkdError(f"speed_percent {self.speed_percent}: expected whole numbers from 50 to 200.")

    def metadata(self) -> dict[str, Any]:
        """Returns what the cache says of its views."""
        return dataclasses.asdict(self)

    @classmethod
    def from_metadata(cls, stated: Mapping[str, Any]) -> "ViewRecipe":
        """Returns the recipe of a cache's views.

        Raises:
            TkdError: they were drawn in a way that this version does not know.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        if sorted(stated) != sorted(known):
            raise TkdError(
                f"views drawn with the settings {', '.join(sorted(stated))}, this tkd knows {', '.join(known)}. "
                "Update tkd."
            )
        try:
            return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in stated.items()})
        except TypeError as error:
            raise TkdError(f"views {stated}: numbers are expected ({error}).") from error


def with_views(manifest: Manifest, recipe: ViewRecipe) -> Manifest:
    """Returns the dataset with `recipe.n` views of each training clip, each a row of its own.

    View k of a clip is called `<clip_id>#<k>` and depends on the recipe, the clip's row, k, and the recordings; not on
    the number of views. A dataset that has these views is returned as it is.

    Raises:
        TkdError: a recording cannot be read, the dataset has other views, or a clip is called like a view.
    """
    found = max((clip.view for clip in manifest.clips), default=0)
    if found == recipe.n:
        return manifest
    if found:
        raise TkdError(f"{manifest.root}: has {found} views of each training clip, {recipe.n} are asked for.")
    clips = manifest.split("train")
    noise = noise_regions(clips)
    views = [
        _view(manifest, clip, number, noise, recipe)
        for clip in track(clips, "drawing views", len(clips), "clips")
        for number in range(1, recipe.n + 1)
    ]
    taken = {clip.clip_id for clip in manifest.clips} & {view.clip_id for view in views}
    if taken:
        raise TkdError(f"{manifest.root}: clip {min(taken)} has the name of a view. Rename its recording.")
    return dataclasses.replace(manifest, clips=tuple(in_order([*manifest.clips, *views])))


def without_views(manifest: Manifest) -> Manifest:
    """Returns the dataset with no more than its own clips."""
    return dataclasses.replace(manifest, clips=tuple(clip for clip in manifest.clips if clip.view == 0))


def _view(manifest: Manifest, clip: Clip, number: int, noise: list[NoiseRegion], recipe: ViewRecipe) -> Clip:
    rng = np.random.default_rng([recipe.seed, number, zlib.crc32(clip.clip_id.encode())])
    speed = int(rng.choice(recipe.speed_percent))
    snr_db = manifest.info.recipe.get("snr_db")
    if clip.noise_file is not None and snr_db is not None:
        fresh = dataclasses.replace(clip, speech_offset=0, speed_percent=speed)
        view = mix(fresh, manifest.audio_root, noise, MixRecipe(clip.n_samples, tuple(snr_db)), rng)
    else:
        n_recorded = clip.n_samples if clip.speech_file is None else speech_length(manifest.audio_root, clip)
        view = _moved(clip, n_recorded, speed, round(recipe.shift_seconds * manifest.info.sample_rate), rng)
        view = _quieter(view, rng.uniform(*recipe.gain_db))
    return dataclasses.replace(view, clip_id=f"{clip.clip_id}#{number}", view=number)


def _moved(clip: Clip, n_recorded: int, speed: int, shift: int, rng: np.random.Generator) -> Clip:
    """Returns the clip of the same length with its recording at another speed, and shifted by up to `shift` samples.

    A tenth of the clip at most, beyond what the speed leaves over or cuts off; an event that is known stays inside, or
    as much of it as fits. Of a recording that the clip is cut from, the middle stays the clip's. Noise is another crop
    of its stretch, if that has one.

    Args:
        clip: The clip.
        n_recorded: Samples of its recording, or part of one, at its own speed.
        speed: In percent.
        shift: In samples.
        rng: What is drawn is drawn from it.
    """
    n, faster = clip.n_samples, 100 / speed
    shift = min(shift, n // 10)
    if clip.speech_offset < 0:
        middle = round(n / 2 - (n / 2 - clip.speech_offset) * faster)
        spare = math.ceil(abs(n - n * faster) / 2)
        low, high = middle - spare - shift, middle + spare + shift
    else:
        heard = min(n_recorded, n - clip.speech_offset)
        length, first = math.ceil(heard * faster), round(clip.speech_offset * faster)
        low, high = first - max(0, first + length - n) - shift, first + max(0, heard - length) + shift
    event = {}
    if clip.event_start >= 0:
        start, stop = ((time - clip.speech_offset) * faster for time in (clip.event_start, clip.event_stop))
        inside = sorted((math.ceil(-start), math.floor(n - stop)))
        low, high = (int(np.clip(bound, *inside)) for bound in (low, high))
    offset = int(rng.integers(low, high + 1))
    if clip.event_start >= 0:
        event = {"event_start": max(0, math.floor(offset + start)), "event_stop": min(n, math.ceil(offset + stop))}
    noise_offset = clip.noise_offset
    if clip.noise_stop is not None and clip.noise_stop - clip.noise_start >= n:
        noise_offset = int(rng.integers(clip.noise_start, clip.noise_stop - n + 1))
    return dataclasses.replace(clip, speech_offset=offset, speed_percent=speed, noise_offset=noise_offset, **event)


def _quieter(clip: Clip, gain_db: float) -> Clip:
    """Returns the clip with another level; gains are rounded to what the manifest's float32 columns hold."""
    gains = {
        name: float(np.float32(getattr(clip, name) * 10 ** (gain_db / 20))) for name in ("speech_gain", "noise_gain")
    }
    return dataclasses.replace(clip, **gains)
