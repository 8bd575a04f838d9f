"""Features for a cache that came without them, computed from the recipient's own recordings."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cache_schema import STATE_KEYS, Cache, audio_sha256, open_cache, write_partition
from pipeline.data.audio import render_clip, to_waveform
from pipeline.data.clip import Clip
from pipeline.data.manifest import Manifest
from pipeline.data.views import with_views
from pipeline.errors import TkdError
from pipeline.extract.features import LogMel, LogMelConfig
from pipeline.extract.partitions import Built, claim, write_cache
from pipeline.extract.plan import Outline, versions, views_of
from pipeline.progress import Progress, track


class AudioFaults(TkdError):
    """Recordings that are not those of the cache; `faults` has one line for each clip."""

    def __init__(self, summary: str, faults: list[str]) -> None:
        super().__init__(summary)
        self.faults = faults


def attach_features(
    path: str | Path, manifest: Manifest, out: Path, strict: bool = False, force: bool = False
) -> Built:
    """Writes the cache `out`: the one at `path` with features, as if it had been built with them.

    Args:
        path: A cache without features; a path or a URL.
        manifest: A dataset with the recordings it was built from.
        out: Where the new cache is to be.
        strict: A clip is looked for under its own clip_id only, not by its audio under any.
        force: Replace what is at `out`.

    Raises:
        AudioFaults: recordings are missing or other than the cache's; nothing is written then.
        TkdError: the cache has features, or its front end or its way of drawing views is unknown here.
        CacheError: the cache is damaged, or `out` is taken.
    """
    cache = open_cache(path)
    if cache.layout.with_features:
        raise TkdError(f"{path}: has its features. Train from it as it is.")
    try:
        log_mel = LogMel(LogMelConfig.from_metadata(cache.metadata["features"]))
    except TkdError as error:
        raise TkdError(f"{path}: {error}") from error
    clips = match_clips(cache, manifest, strict)
    rows = {name: cache.read(name) for name, spec in cache.specs.items() if spec.written == "creation"}
    given = {key: value for key, value in cache.metadata.items() if key not in STATE_KEYS}
    software = {**given["software"], "features": versions("tkd", "torch", "torchaudio", "numpy")}
    metadata = {**given, "software": software}
    outline = Outline(dataclasses.replace(cache.layout, with_features=True), rows, metadata)

    def write(indices: list[int], progress: Progress) -> None:
        for index in indices:
            _attach_partition(cache, manifest.audio_root, clips, log_mel, out, outline, index, progress)

    return write_cache(out, outline, write, "computing features", force=force)


def match_clips(cache: Cache, manifest: Manifest, strict: bool = False) -> list[Clip]:
    """Returns the clip with each row's audio: the one of its clip_id, else, unless `strict`, any with that digest.

    Views are drawn again, from the clips that were found, as the cache says it did.

    Raises:
        AudioFaults: some rows have none.
        TkdError: the cache has views drawn in a way unknown here.
    """
    views, n_clips = views_of(cache), cache.layout.n_clips
    rows = range(n_clips) if views is None else np.flatnonzero(cache.read("view") == 0).tolist()
    clips = dict(zip(rows, _find(cache, rows, manifest, strict), strict=True))
    rest = [row for row in range(n_clips) if row not in clips]
    if rest:
        ids, training = cache.read("clip_id"), [row for row in cache.split_rows("train").tolist() if row in clips]
        named = (dataclasses.replace(clips[row], clip_id=str(ids[row]), split="train") for row in training)
        drawn = with_views(dataclasses.replace(manifest, clips=tuple(named)), views)
        clips |= zip(rest, _find(cache, rest, drawn, strict=True), strict=True)
    return [clips[row] for row in range(n_clips)]


def _find(cache: Cache, rows: Sequence[int], manifest: Manifest, strict: bool) -> list[Clip]:
    """Returns the manifest's clips with the audio of the given rows; raises AudioFaults if it lacks some."""
    ids, digests = ([str(text) for text in cache.read(name)[rows]] for name in ("clip_id", "audio_sha256"))
    by_id = {clip.clip_id: clip for clip in manifest.clips}
    found: dict[str, str | TkdError] = {}  # clip_id in the manifest -> digest

    def digest(clip: Clip) -> str | TkdError:
        if clip.clip_id not in found:
            try:
                found[clip.clip_id] = audio_sha256(render_clip(manifest.audio_root, clip))
            except TkdError as error:
                found[clip.clip_id] = error
        return found[clip.clip_id]

    right = [
        clip_id in by_id and digest(by_id[clip_id]) == wanted
        for clip_id, wanted in track(zip(ids, digests, strict=True), "comparing recordings", len(ids), "clips")
    ]
    by_digest = {} if strict or all(right) else {digest(clip): clip for clip in manifest.clips}
    clips, faults = [], []
    for clip_id, wanted, is_right in zip(ids, digests, right, strict=True):
        clip = by_id[clip_id] if is_right else by_digest.get(wanted)
        if clip is not None:
            clips.append(clip)
        elif clip_id not in by_id:
            faults.append(f"{clip_id}: missing")
        elif isinstance(found[clip_id], TkdError):
            faults.append(f"{clip_id}: {found[clip_id]}")
        else:
            faults.append(f"{clip_id}: another recording than the cache was made from")
    if faults:
        raise AudioFaults(
            f"{manifest.root}: {len(faults)} of {cache.layout.n_clips} clips are not the recordings of {cache.path}; "
            "nothing is written. Prepare the dataset from the same recordings with the same settings.",
            faults,
        )
    return clips


def _attach_partition(
    cache: Cache,
    root: Path,
    clips: list[Clip],
    log_mel: LogMel,
    out: Path,
    outline: Outline,
    index: int,
    progress: Progress,
) -> None:
    """Writes one partition: what the cache holds as it is stored there, and the features."""
    with claim(out, outline, index) as missing:
        if not missing:
            return
        layout, rows = cache.layout, cache.layout.partition_rows(index)
        names = [name for name, spec in cache.specs.items() if spec.written == "partition"]
        arrays = {name: cache.read(name, [index], decode=False) for name in names}
        features = np.zeros((rows.stop - rows.start, layout.n_features, layout.n_feature_frames), np.float32)
        for row, clip in enumerate(clips[rows]):
            pcm = render_clip(root, clip)
            if audio_sha256(pcm) != arrays["audio_sha256"][row]:
                raise TkdError(f"{root}: the recording of clip {clip.clip_id} has just changed. Run the same again.")
            computed = log_mel(to_waveform(pcm))
            features[row, :, : computed.shape[1]] = computed
            progress.advance()
        write_partition(out, index, {**arrays, "features": features}, coded=True)
