"""Whether a student can be trained from a cache as the settings say, asked before a run is begun."""

from cache_schema import Cache
from pipeline.distill.config import TrainConfig
from pipeline.distill.data import Split
from pipeline.distill.distillation import has_attention
from pipeline.distill.frame_weights import FrameWeights
from pipeline.distill.score import require_heard
from pipeline.errors import TkdError
from students import Student


def require_suited(cache: Cache, splits: dict[str, Split], student: type[Student], config: TrainConfig) -> None:
    """Checks that a student can be trained on every clip, and as the settings say.

    Raises:
        TkdError: the features do not suit it, or do not say when their frames are; some clips have too few frames; or
            its own attention is asked for and it has none.
    """
    name = student.name
    try:
        built = student(len(cache.labels), cache.layout.n_features)
    except ValueError as error:
        raise TkdError(f"{cache.path}: its features do not suit {name}: {error} Or use another --student.") from error
    if "frame_offset" not in cache.metadata["features"]:
        raise TkdError(
            f"{cache.path}: does not say when its feature frames are (tkd_cache.features.frame_offset: the sample at "
            "which frame 0 is centred). Have whoever built it add that."
        )
    if not isinstance(cache.metadata["features"].get("n_mels"), int):
        raise TkdError(
            f"{cache.path}: does not say how many mel bins its features have (tkd_cache.features.n_mels), and without "
            "that nobody can use the student. Have whoever built it add that."
        )
    if config.attention == "own" and not has_attention(built):
        raise TkdError(f"{name} has no attention of its own. Train it with --attention query.")
    for split in splits.values():
        require_heard(split, built)
    moving = [name for name in ("shift", "crop", "speed") if name in config.augment]
    of_rollout = FrameWeights.parse(config.frame_weights).kind in ("rollout", "shuffled")
    has_place = of_rollout and cache.metadata["teacher"].get("readout") == "first_token"
    if moving and has_place and config.first_frame == "keep":
        raise TkdError(
            f"--first-frame keep: {', '.join(moving)} would move the readout's own place, which is always the first "
            f"frame, along with the sound. Give --augment without, as in --augment gain,noise."
        )
    # Crop leaves six tenths of a clip, speed ten elevenths of that, and neither less than 0.45 s of a longer one.
    cut, shortest = [cut for cut in ("crop", "speed") if cut in config.augment], int(splits["train"].lengths.min())
    features = cache.metadata["features"]
    long = built.min_frames * features["hop_length"] > 0.45 * features["sample_rate"]
    if cut and long and shortest * 0.6 / 1.1 < built.min_frames:
        raise TkdError(
            f"{cache.path}: {name} needs {built.min_frames} feature frames, and {' and '.join(cut)} may leave fewer "
            f"of a clip of {shortest}. Give --augment without."
        )
