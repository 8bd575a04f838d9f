"""`nscv2`: Noisy Speech Commands v2 (arXiv 2110.14131): a word of 1 s at a random place in noise, 12 labels.

The paper says neither which noise nor how loud: here Speech Commands' own background noise, or any recordings, at an
SNR drawn from a range.
"""

from dataclasses import dataclass
from pathlib import Path

from pipeline.data.clip import SAMPLE_RATE, Clip
from pipeline.data.manifest import DatasetInfo
from pipeline.data.mixing import LONGEST, MixRecipe, check_snr, mix
from pipeline.data.published.noise_shares import noise_files, share_noise
from pipeline.data.published.speech_commands import (
    BACKGROUND,
    SpeechCommandsConfig,
    clip_rng,
    describe,
    read_words,
    silence,
    words_names_and_sizes,
)
from pipeline.data.recordings import names_and_sizes
from pipeline.errors import TkdError
from pipeline.progress import track


@dataclass(frozen=True)
class Nscv2Config:
    """The recipe. `root`: a copy of Speech Commands v2; None: downloaded. `noise`: a folder; None: its own."""

    root: str | None = None
    length_seconds: float = 4.0
    snr_db: tuple[float, float] = (0.0, 15.0)
    noise: str | None = None
    seed: int = 0
    strict: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.length_seconds <= LONGEST:  # not: NaN is outside, too
            raise TkdError(
                f"length {self.length_seconds} s: a word takes 1 s. Use 1 to {LONGEST} s; the paper 2, 4, 6, 8."
            )
        check_snr(self.snr_db)
        self.words()

    def words(self) -> SpeechCommandsConfig:
        """Returns what is asked of Speech Commands."""
        return SpeechCommandsConfig(self.root, version=2, labels=12, seed=self.seed, strict=self.strict)

    def recipe(self, copy: Path) -> dict:
        """Returns what `dataset.json` says of how the clips were made of the Speech Commands in `copy`.

        Raises:
            TkdError: no such folder of noise, or no recordings in it.
        """
        noise = self.noise_folder(copy)
        return {
            "kind": "nscv2",
            "length_seconds": self.length_seconds,
            "snr_db": self.snr_db,
            "noise": noise.name,
            "seed": self.seed,
            "names_and_sizes_sha256": words_names_and_sizes(copy),
            "noise_names_and_sizes_sha256": names_and_sizes(noise_files(noise), noise),
        }

    def check_noise(self) -> None:
        """Raises TkdError if there is no noise in the folder given: to know it before a download."""
        if self.noise is not None:
            noise_files(Path(self.noise))

    def noise_folder(self, copy: Path) -> Path:
        """Returns where the noise is."""
        return copy / BACKGROUND if self.noise is None else Path(self.noise).resolve()


def make_nscv2(work: Path, copy: Path, config: Nscv2Config) -> tuple[DatasetInfo, list[Clip]]:
    """Returns the clips mixed from the Speech Commands in `copy` and the noise.

    The recordings stay where they are: links in `work` lead to them, so that a row names them alike everywhere.

    Raises:
        TkdError: as `read_speech_commands` and `share_noise`.
    """
    links = {"speech_commands": copy, "noise": config.noise_folder(copy)}
    for name, folder in links.items():
        (work / name).unlink(missing_ok=True)
        (work / name).symlink_to(folder, target_is_directory=True)
    words = read_words(copy, config.words(), prefix="speech_commands/")
    noise = share_noise(links["noise"], "noise/", config.seed, config.strict)
    recipe = MixRecipe(round(config.length_seconds * SAMPLE_RATE), config.snr_db)
    rows = words.clips + silence(words.n_silence, recipe.n_samples)
    clips = [
        mix(row, work, noise.regions[row.split], recipe, clip_rng(config.seed, row))
        for row in track(rows, "mixing", len(rows), "clips")
    ]
    return describe("nscv2", config.words(), config.recipe(copy), [words.source, noise.source], "."), clips
