"""A clip is a pure function of its row, and the row tells the truth about the sound."""

import dataclasses
import json
import math
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.signal
import scipy.stats
import soundfile
import torch
import torchaudio

from pipeline.data.audio import n_resampled, noise_crop, read_audio, render_clip, survey
from pipeline.data.clip import Clip
from pipeline.data.manifest import DatasetInfo, read_manifest, write_manifest
from pipeline.data.mixing import NOISE_DBFS
from pipeline.data.prepare import prepare
from pipeline.data.spoken import noise
from pipeline.errors import TkdError

INFO = DatasetInfo("x", "single_label", ("größer", "écoute"), "none")
CLIP = Clip("a", "train", (0,), 640, speech_file="a.wav")


def parts(manifest, clip):
    """The clip's two sources, read by another route than ours: (n_samples,) each, before the gains."""
    speech = np.zeros(clip.n_samples)
    if clip.speech_file:
        heard = soundfile.read(manifest.root / clip.speech_file)[0]
        speech[clip.speech_offset : clip.speech_offset + len(heard)] = heard
    recording = soundfile.read(manifest.root / clip.noise_file)[0]
    return speech, np.resize(np.roll(recording, -clip.noise_offset), clip.n_samples)


def db(samples):
    return 10 * np.log10(np.mean(samples**2))


def tone(frequency, rate, seconds=1.0, level=0.5):
    return level * np.sin(2 * np.pi * frequency * np.arange(int(rate * seconds)) / rate)


# Rendering


def test_rendering_is_a_pure_function_of_the_row(tiny_data):
    again = read_manifest(tiny_data.root)
    for one, other in zip(tiny_data.clips, again.clips, strict=True):
        assert one == other
        assert (render_clip(tiny_data.root, one) == render_clip(again.root, other)).all()


def test_rendered_is_speech_and_noise_at_the_stated_gains(tiny_data):
    for clip in tiny_data.clips:
        speech, noise = parts(tiny_data, clip)
        expected = speech * (clip.speech_gain if clip.speech_file else 0) + noise * clip.noise_gain
        assert np.abs(render_clip(tiny_data.root, clip) / 32768 - expected).max() < 1.01 * 0.5 / 32768


def test_the_gains_make_the_stated_snr_and_a_noise_level_in_range(tiny_data):
    low, high = tiny_data.info.recipe["snr_db"]
    for clip in tiny_data.clips:
        speech, noise = parts(tiny_data, clip)
        level = db(noise * clip.noise_gain)
        assert level < NOISE_DBFS[1] + 0.01
        if clip.speech_file:
            spoken = speech[clip.event_start : clip.event_stop] * clip.speech_gain
            assert db(spoken) - level == pytest.approx(clip.snr_db, abs=0.01)
            assert low <= clip.snr_db <= high
        else:
            assert level > NOISE_DBFS[0] - 0.01 and clip.snr_db is None


def test_nothing_clips(tiny_data):
    loudest = max(np.abs(render_clip(tiny_data.root, clip).astype(int)).max() for clip in tiny_data.clips)
    assert loudest <= 0.99 * 32768 + 1


def test_the_keyword_lies_where_the_event_is(tiny_data):
    spoken = [clip for clip in tiny_data.clips if clip.speech_file]
    for clip in spoken:
        word = soundfile.read(tiny_data.root / clip.speech_file)[0]
        assert clip.event_stop - clip.event_start == len(word)
        assert clip.event_start >= 0 and clip.event_stop <= clip.n_samples
        if clip.snr_db > 3:
            found = scipy.signal.correlate(render_clip(tiny_data.root, clip) / 32768, word, "valid").argmax()
            assert found == clip.event_start
    assert all(clip.event_start == clip.event_stop == -1 for clip in tiny_data.clips if not clip.speech_file)
    starts = [clip.event_start / (clip.n_samples - (clip.event_stop - clip.event_start)) for clip in spoken]
    assert scipy.stats.kstest(starts, "uniform").pvalue > 0.001  # anywhere, not always in the middle


@pytest.mark.parametrize(("offset", "expected"), [(-2, [3, 4, 5, 0]), (2, [0, 0, 1, 2]), (9, [0] * 4), (-9, [0] * 4)])
def test_a_recording_is_cut_or_padded_by_its_offset(tmp_path, offset, expected):
    soundfile.write(tmp_path / "a.wav", np.arange(1, 6, dtype=np.int16), 16000)
    clip = dataclasses.replace(CLIP, n_samples=4, speech_offset=offset)
    assert render_clip(tmp_path, clip).tolist() == expected


def test_a_noise_recording_that_changed_is_read_again(tmp_path):
    """Preparing two seeds in one process makes other noise under the same name."""
    for value in (100, 200):
        soundfile.write(tmp_path / "n.wav", np.full(3, value, np.int16), 16000)
        os.utime(tmp_path / "n.wav", ns=(value, value))
        assert (32768 * noise_crop(tmp_path / "n.wav", 2, 5)).tolist() == [value] * 5


# Reading recordings


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
@pytest.mark.parametrize("n_channels", [1, 2])
def test_any_rate_and_channels_become_one_channel_at_16_khz(tmp_path, rate, n_channels):
    samples = np.stack([tone(440, rate) * scale for scale in (1.5, 0.5)[:n_channels]], axis=1)
    soundfile.write(tmp_path / "a.wav", samples / samples.max() / 2, rate, subtype="FLOAT")
    waveform = read_audio(tmp_path / "a.wav")
    assert waveform.shape == (16000,) and waveform.dtype == np.float32
    power = np.abs(np.fft.rfft(waveform)) ** 2
    assert power.argmax() == 440 and power[438:443].sum() > 0.99 * power.sum()


def test_channels_are_averaged(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.array([[0.5, 0.25]] * 700), 16000, subtype="FLOAT")
    assert (read_audio(tmp_path / "a.wav") == 0.375).all()


def test_a_wav_written_to_a_pipe_is_whole(tmp_path):
    """ffmpeg to a pipe cannot fill in the lengths."""
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(440, 16000), 16000)
    header = bytearray(path.read_bytes())
    header[4:8] = header[40:44] = b"\xff" * 4
    path.write_bytes(header)
    assert len(read_audio(path)) == 16000


@pytest.mark.parametrize("rate", [1, 16001, 2**31 - 1])
def test_a_rate_that_cannot_be_resampled_is_named(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", tone(440, 16000), rate)
    with pytest.raises(TkdError, match=f"a.wav: is at {rate} Hz, with no simple ratio to 16000 Hz"):
        read_audio(tmp_path / "a.wav")


def test_a_missing_recording_is_named(tmp_path):
    with pytest.raises(TkdError, match=r"a\.wav: cannot be read as audio \(no such file\)"):
        render_clip(tmp_path, CLIP)
    with pytest.raises(TkdError, match=r"n\.flac: cannot be read as audio"):
        render_clip(tmp_path, dataclasses.replace(CLIP, speech_file=None, noise_file="n.flac"))


# Noise


def log_spectrum(samples):
    """Frequencies 100 to 6000 Hz and their power in dB."""
    frequency, power = scipy.signal.welch(samples, 16000, nperseg=2048)
    band = (frequency > 100) & (frequency < 6000)
    return frequency[band], 10 * np.log10(power[band])


def flatness(samples):
    """Geometric over arithmetic mean of the power spectrum below 2 kHz: 1 for white noise, towards 0 for lines."""
    frequency, power = scipy.signal.welch(samples, 16000, nperseg=8192)
    power = power[(frequency > 40) & (frequency < 2000)]
    return scipy.stats.gmean(power) / power.mean()


def centroid(samples):
    """Mean frequency of the power spectrum, Hz."""
    frequency, power = scipy.signal.welch(samples, 16000)
    return np.average(frequency, weights=power)


def test_coloured_noise_falls_by_a_straight_slope_between_white_and_brown():
    slopes = []
    for seed in range(12):
        frequency, level = log_spectrum(noise.coloured(np.random.default_rng(seed), 160000))
        fit = scipy.stats.linregress(10 * np.log10(frequency), level)
        slopes.append(-fit.slope)
        assert np.abs(level - fit.intercept - fit.slope * 10 * np.log10(frequency)).std() < 1.5
    assert min(slopes) > -0.1 and max(slopes) < 2.1 and np.ptp(slopes) > 1


def test_transients_are_rare_and_loud_and_hum_is_lines():
    for seed in range(6):
        rng = np.random.default_rng(seed)
        knocks, hum = noise.transients(rng, 160000), noise.hum(rng, 160000)
        assert scipy.stats.kurtosis(knocks) > 10 > scipy.stats.kurtosis(hum)
        assert np.median(np.abs(knocks)) < 0.3 * knocks.std()  # 0.67 in steady noise
        assert flatness(hum) < 0.2


def test_other_noises_are_what_they_are_called():
    for seed in range(6):
        rng = np.random.default_rng(seed)
        rain, wind, melody, alarm = (make(rng, 160000) for make in (noise.rain, noise.wind, noise.melody, noise.alarm))
        assert scipy.stats.kurtosis(rain) > 3 and np.isfinite([rain, wind, melody, alarm]).all()
        level = [np.sqrt(np.mean(part**2)) for part in np.split(wind, 40)]
        assert max(level) > 2 * min(level) > 0  # gusts
        assert centroid(wind) < 1600 < 3000 < centroid(rain)
        assert flatness(melody) < 0.05  # lines
        *_, power = scipy.signal.spectrogram(alarm, 16000, nperseg=512)
        assert np.percentile(scipy.stats.gmean(power) / power.mean(axis=0), 25) < 0.1  # while it sounds, a tone


def test_babble_is_several_voices_saying_no_word():
    said = []

    def say(voice, utterances):
        said.extend((voice, word) for utterance in utterances for word in utterance.text.split())
        return [np.ones(8000) for _ in utterances]

    babble = noise.babble(np.random.default_rng(0), 20000, list("abcdefgh"), say)
    assert babble.shape == (20000,) and len({voice for voice, _ in said}) == 5
    assert all(len(word) % 2 == 0 and set(word[1::2]) <= set("aeiou") for _, word in said)
    assert not {word for _, word in said} & {"no", "go", "bed", "zero"}  # four letters are two syllables or more


# Manifest


def test_a_manifest_comes_back_as_written(tmp_path):
    clips = [
        dataclasses.replace(
            CLIP, clip_id="é/2", split="test", snr_db=1.5, noise_file="n", noise_gain=0.25, speaker="ü"
        ),
        dataclasses.replace(CLIP, clip_id="é/1", speech_offset=-(2**40), event_start=1, event_stop=2),
    ]
    write_manifest(tmp_path, INFO, clips)
    there = read_manifest(tmp_path)
    assert there.info == INFO and list(there.clips) == clips[::-1]  # in split order
    assert there.split("test") == clips[:1] and there.split("validation") == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset.json", "manifest.parquet"]


def test_the_digest_is_of_rows_and_labels(tmp_path):
    def digest(info, clip):
        write_manifest(tmp_path, info, [clip])
        return read_manifest(tmp_path).sha256()

    first = digest(INFO, CLIP)
    assert digest(dataclasses.replace(INFO, name="y"), CLIP) == first
    for field, value in {"n_samples": 641, "speech_gain": 0.5, "labels": (1,), "clip_id": "b", "snr_db": 0.0}.items():
        assert digest(INFO, dataclasses.replace(CLIP, **{field: value})) != first
    assert digest(dataclasses.replace(INFO, labels=("a", "b")), CLIP) != first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([{}, {"n_samples": 650}], "clip_id a stands for two clips"),
        ([{"labels": (2,)}], r"a has labels \[2\], there are 2"),
        ([{"labels": (-1,)}], r"a has labels \[-1\]"),
        ([{"labels": ()}], "a has 0 labels, a single_label clip has one"),
        ([{"split": "dev"}], "a is in the split 'dev', not one of train, validation, test"),
        ([{"n_samples": 0}, {"clip_id": "b", "n_samples": -1}], r"a has 0 samples \(2 faults, this is the first\)"),
        ([], "no clips"),
    ],
)
def test_rows_that_contradict_each_other_are_not_written(tmp_path, changes, message):
    with pytest.raises(TkdError, match=message):
        write_manifest(tmp_path, INFO, [dataclasses.replace(CLIP, **change) for change in changes])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("dataset.json", b"{"),
        ("dataset.json", b""),
        ("dataset.json", b"[]"),
        ("dataset.json", b"\xff\xfe"),
        ("dataset.json", b'{"labels": null}'),
        ("dataset.json", json.dumps({**dataclasses.asdict(INFO), "format": 9}).encode()),
        ("manifest.parquet", b""),
        ("manifest.parquet", b"PAR1 nothing PAR1"),
        ("manifest.parquet", "cut"),
        ("manifest.parquet", "middle"),
        ("manifest.parquet", "column"),
    ],
)
def test_a_damaged_dataset_says_so_in_one_line(tmp_path, file, content):
    write_manifest(tmp_path, INFO, [CLIP])
    path = tmp_path / file
    if content == "column":
        pq.write_table(pq.read_table(path).drop_columns(["labels"]), path)
    elif content == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif content == "middle":
        whole = path.read_bytes()
        path.write_bytes(whole[:-400] + bytes(200) + whole[-200:])
    else:
        path.write_bytes(content)
    with pytest.raises(TkdError, match=f"{tmp_path}: damaged dataset description .*Prepare it again with --force"):
        read_manifest(tmp_path)


def test_no_dataset_and_half_a_dataset_are_told_apart_from_a_whole_one(tmp_path):
    with pytest.raises(TkdError, match=r"no such dataset folder. Make one with tkd data prepare"):
        read_manifest(tmp_path / "none")
    write_manifest(tmp_path, INFO, [CLIP])
    (tmp_path / "dataset.json").unlink()
    with pytest.raises(TkdError, match="no prepared dataset"):
        read_manifest(tmp_path)


# Preparing


def make(work):
    return INFO, [CLIP]


def make_seed(seed):
    return lambda work: (dataclasses.replace(INFO, recipe={"seed": seed}), [CLIP])


def test_force_never_deletes_what_is_not_a_dataset(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    (tmp_path / "file").write_text("")
    for out in ("thesis", "file"):
        with pytest.raises(TkdError, match="exists and is not a dataset"):
            prepare(tmp_path / out, {}, make, force=True)
    assert (tmp_path / "thesis" / "chapter.txt").exists()


def test_another_recipe_is_refused_and_force_replaces_it(tmp_path):
    out = tmp_path / "d"
    prepare(out, {"seed": 1}, make_seed(1))
    (out / "old").write_text("")
    assert prepare(out, {"seed": 1}, lambda work: pytest.fail("made again")).clips == (CLIP,)
    with pytest.raises(TkdError, match=r"holds a dataset of another recipe\. Prepare again with --force"):
        prepare(out, {"seed": 2}, make_seed(2))
    prepare(out, {"seed": 2}, make_seed(2), force=True)
    assert sorted(path.name for path in tmp_path.rglob("[!.]*")) == ["d", "dataset.json", "manifest.parquet"]


def test_force_keeps_the_old_dataset_until_the_new_one_is_whole(tmp_path):
    out = tmp_path / "d"
    prepare(out, {}, make)
    with pytest.raises(ZeroDivisionError):
        prepare(out, {}, lambda work: 1 / 0, force=True)
    assert read_manifest(out).clips == (CLIP,)


@pytest.mark.parametrize("note", ["", "{", '{"seed": 2}', None])
def test_unfinished_work_of_another_recipe_is_not_used(tmp_path, note):
    work = tmp_path / "d.partial"
    work.mkdir()
    (work / "stale.flac").write_text("")
    if note is not None:
        (work / "recipe.json").write_text(note)
    assert not (prepare(tmp_path / "d", {"seed": 1}, make).root / "stale.flac").exists()


def test_unfinished_work_of_the_same_recipe_is_used(tmp_path):
    with pytest.raises(ZeroDivisionError):
        prepare(tmp_path / "d", {"words": ("é",)}, lambda work: (work / "kept").write_text("") or 1 / 0)
    assert not (tmp_path / "d").exists()
    assert (prepare(tmp_path / "d", {"words": ("é",)}, make).root / "kept").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TkdError, match=r"file/d: cannot be written \((Not a directory|File exists)\)"):
        prepare(tmp_path / "file" / "d", {}, make)


def test_the_working_folder_and_links_can_be_prepared_in(tmp_path, monkeypatch):
    prepare(tmp_path / "real", {}, make)
    (tmp_path / "link").symlink_to("real")
    prepare(tmp_path / "link", {}, make, force=True)
    assert (tmp_path / "link").is_symlink() and not list(tmp_path.glob("*.partial"))
    monkeypatch.chdir(tmp_path / "real")
    assert prepare(Path("."), {}, make).clips == (CLIP,)


def test_a_part_of_a_recording_is_heard_as_if_it_were_the_whole(tmp_path):
    samples = np.sin(np.arange(24000) / 7).astype(np.float32) / 2
    soundfile.write(tmp_path / "a.wav", samples, 8000, subtype="FLOAT")
    soundfile.write(tmp_path / "part.wav", samples[4000:20001], 8000, subtype="FLOAT")
    row = Clip("c", "train", (0,), 32002, speech_file="a.wav", speech_start=4000, speech_stop=20001)
    whole = dataclasses.replace(row, speech_file="part.wav", speech_start=0, speech_stop=None)
    assert np.array_equal(render_clip(tmp_path, row), render_clip(tmp_path, whole))
    with pytest.raises(TkdError, match=r"a\.wav: has 24000 samples, 4000 to 24001 are not among them"):
        read_audio(tmp_path / "a.wav", 4000, 24001)


def test_a_recording_played_faster_is_shorter_and_higher(tmp_path):
    """A tone of 1000 Hz for 1 s, played at 110 %: 1100 Hz for 1 / 1.1 s."""
    tone = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000).astype(np.float32) / 2
    soundfile.write(tmp_path / "a.wav", tone, 16000, subtype="FLOAT")
    played = read_audio(tmp_path / "a.wav", speed_percent=110)
    assert len(played) == math.ceil(16000 / 1.1)
    assert np.abs(np.fft.rfft(played, 16000)).argmax() == 1100


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000, 12345])
def test_a_survey_tells_the_length_that_reading_gives(tmp_path, rate):
    rng = np.random.default_rng(rate)
    for n_frames in (1, 2, 160, 441, *rng.integers(1, 99999, 5)):
        stereo = rng.uniform(-0.5, 0.5, (int(n_frames), 2)).astype(np.float32)
        soundfile.write(tmp_path / "a.wav", stereo, rate, subtype="FLOAT")
        seen = survey(tmp_path / "a.wav")
        assert (seen.n_frames, seen.sample_rate) == (n_frames, rate)
        assert seen.n_samples == len(read_audio(tmp_path / "a.wav"))
        assert seen.peak == np.abs(stereo.mean(axis=1)).max()


def test_the_length_of_a_long_recording_is_rounded_as_the_resampler_does():
    for n_frames in (26_460_001, 30_000_001):
        silence = torch.zeros(n_frames)
        assert n_resampled(n_frames, 44100) == len(torchaudio.functional.resample(silence, 44100, 16000))
