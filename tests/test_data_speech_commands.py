"""Speech Commands and its noisy kind, on a small copy of the archive's layout: official splits, counts, rows, noise."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from click.testing import CliRunner
from file_server import file_server
from speech_commands_copy import BACKGROUND, make_copy, official_split

from pipeline.cli.main import tkd
from pipeline.data.audio import noise_crop, read_audio, render_clip
from pipeline.data.clip import SPLITS, Clip
from pipeline.data.fetch.download import RemoteFile
from pipeline.data.manifest import Manifest, read_manifest
from pipeline.data.mixing import MixRecipe, NoiseRegion, mix, noise_regions
from pipeline.data.published import speech_commands as module
from pipeline.data.published.speech_commands import OTHER_WORDS, PUBLISHED, WORDS, SpeechCommandsConfig, tenth
from pipeline.errors import TkdError
from pipeline.teacher.clips import TrainingClips

N = {"train": 6, "validation": 3, "test": 3}  # speakers; each says every word once


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    return make_copy(tmp_path_factory.mktemp("copy") / "speech_commands_v0.02")


def run(*arguments):
    return CliRunner().invoke(tkd, ["data", "prepare", *map(str, arguments)])


def prepared(name: str, out: Path, *arguments) -> Manifest:
    result = run(name, "--out", out, *arguments)
    assert result.exit_code == 0, result.output
    return read_manifest(out)


@pytest.mark.parametrize(
    ("version", "wanted"), [(2, (30_769, 3_703, 4_074)), (1, (18_538, 2_577, 2_567))], ids=["v2", "v1"]
)
def test_a_tenth_each_of_silence_and_unknown_gives_the_published_numbers(version, wanted):
    assert tuple(n + 2 * tenth(n) for n in wanted) == PUBLISHED[version, 12]


def test_the_lists_of_all_words_add_up_to_the_published_recordings():
    assert sum(PUBLISHED[2, 35]) == 105_829 and sum(PUBLISHED[1, 35]) == 64_721
    assert len(SpeechCommandsConfig(labels=35).label_names()) == 35
    assert len(SpeechCommandsConfig(version=1, labels=35).label_names()) == 30
    assert SpeechCommandsConfig().label_names()[:4] == ("_silence_", "_unknown_", "yes", "no")


def test_twelve_labels_are_the_official_splits_with_a_tenth_each_of_unknown_and_silence(copy, tmp_path):
    data = prepared("speech_commands", tmp_path / "sc", "--root", copy)
    names = data.info.labels
    for split in SPLITS:
        counts = Counter(names[clip.labels[0]] for clip in data.split(split))
        n_other = -(-10 * N[split] // 10)
        assert counts == dict.fromkeys(WORDS, N[split]) | {"_silence_": n_other, "_unknown_": n_other}
    spoken = [clip for clip in data.clips if clip.speech_file]
    assert all(official_split(clip.speaker) == clip.split for clip in spoken)
    for clip in spoken:
        word = clip.clip_id.partition("/")[0]
        assert names[clip.labels[0]] == (word if word in WORDS else "_unknown_")
        assert (clip.event_start, clip.n_samples) == (-1, 16000)
    short = next(clip for clip in spoken if len(soundfile.read(copy / clip.speech_file)[0]) == 9600)
    pcm = soundfile.read(copy / short.speech_file, dtype="int16")[0]
    assert np.array_equal(render_clip(data.audio_root, short), np.pad(pcm, (0, 6400)))


def test_silence_is_the_background_noise_as_recorded_from_the_splits_own_stretch(copy, tmp_path):
    data = prepared("speech_commands", tmp_path / "sc", "--root", copy)
    stretch = {"train": (0, 288_000), "validation": (288_000, 384_000), "test": (384_000, 480_000)}  # of 30 s
    for clip in (clip for clip in data.clips if clip.labels == (0,)):
        first, last = stretch[clip.split]
        assert first <= clip.noise_offset <= last - 16000
        pcm = soundfile.read(copy / clip.noise_file, dtype="int16")[0]
        heard = pcm[clip.noise_offset : clip.noise_offset + 16000]
        assert np.array_equal(render_clip(data.audio_root, clip), heard)


def test_all_words_are_all_recordings(copy, tmp_path):
    data = prepared("speech_commands", tmp_path / "sc", "--root", copy, "--labels", "35")
    assert data.info.labels == tuple(sorted((*WORDS, *OTHER_WORDS)))
    assert {split: len(data.split(split)) for split in SPLITS} == {split: 35 * n for split, n in N.items()}
    older = prepared("speech_commands", tmp_path / "v1", "--root", copy, "--labels", "35", "--version", "1")
    assert len(older.info.labels) == 30 and len(older.split("test")) == 90


def test_the_choice_depends_on_names_and_seed_alone(copy, tmp_path):
    """A copy whose files were made in another order, elsewhere, gives the same rows; another seed other unknowns."""
    moved = tmp_path / "elsewhere" / "speech_commands_v0.02"
    for path in sorted((path for path in copy.rglob("*") if path.is_file()), reverse=True):
        (moved / path.relative_to(copy)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, moved / path.relative_to(copy))
    first = prepared("speech_commands", tmp_path / "a", "--root", copy)
    assert prepared("speech_commands", tmp_path / "b", "--root", moved.parent).sha256() == first.sha256()
    other = prepared("speech_commands", tmp_path / "c", "--root", copy, "--seed", "1")
    unknown = [{clip.clip_id for clip in data.clips if clip.labels == (1,)} for data in (first, other)]
    assert unknown[0] != unknown[1] and len(unknown[0]) == len(unknown[1])
    noisy = [prepared("nscv2", tmp_path / f"n{root.parent.name}", "--root", root) for root in (copy, moved)]
    assert noisy[0].sha256() == noisy[1].sha256()


def test_other_numbers_than_published_are_said_and_strict_stops(copy, tmp_path):
    arguments = ("speech_commands", "--root", copy, "--out", tmp_path / "sc")
    said = "72 / 36 / 36 clips in train, validation and test, published are 36,923 / 4,445 / 4,890."
    assert f"WARNING: {copy}: {said}" in run(*arguments).stderr
    stopped = run(*arguments, "--force", "--strict")
    assert stopped.exit_code == 1 and f"Error: {copy}: {said}" in stopped.stderr
    source = json.loads((tmp_path / "sc" / "dataset.json").read_text())["sources"][0]
    assert source["clips"] == {"train": 72, "validation": 36, "test": 36}
    assert source["published"] == {"train": 36923, "validation": 4445, "test": 4890}


def test_a_speaker_in_two_lists_is_said(copy, tmp_path):
    shutil.copytree(copy, tmp_path / "copy")
    lists = tmp_path / "copy" / "testing_list.txt"
    mixed = lists.read_text().splitlines()
    lists.write_text("\n".join(line for line in mixed if "yes/" not in line))
    result = run("speech_commands", "--root", tmp_path / "copy", "--out", tmp_path / "sc")
    assert "3 speakers are in train and in test, as 0000" in result.stderr


def test_unusable_recordings_are_listed_and_left_out(copy, tmp_path):
    broken = tmp_path / "copy"
    shutil.copytree(copy, broken)
    faults = {}
    for word, content in {"yes": b"", "no": b"RIFF, not really", "up": None}.items():
        path = sorted((broken / word).iterdir())[0]
        path.write_bytes(path.read_bytes()[:5000] if content is None else content)
        faults[path.relative_to(broken).as_posix()] = "cut off" if content is None else "cannot be read as audio"
    (broken / "_background_noise_" / "pink_noise.wav").write_bytes(b"")
    (broken / "yes" / "._0000_nohash_0.wav").write_bytes(b"of macOS")  # in neither list: it would be for training
    result = run("speech_commands", "--root", broken, "--out", tmp_path / "sc")
    sources = read_manifest(tmp_path / "sc").info.sources
    assert {each["file"] for each in sources[0]["left_out"]} == set(faults)
    assert all(re.search(f"left out: .*{name}: {fault}", result.stderr) for name, fault in faults.items())
    assert [each["file"] for each in sources[1]["left_out"]] == ["pink_noise.wav"]


@pytest.mark.parametrize("length", ["1", "2", "8"])
def test_nscv2_is_a_word_at_a_known_place_in_noise_at_the_drawn_snr(copy, tmp_path, length):
    data = prepared("nscv2", tmp_path / "n", "--root", copy, "--length", length, "--snr", "3", "9")
    n_samples = int(length) * 16000
    starts = set()
    for clip in data.clips:
        assert clip.n_samples == n_samples and clip.noise_file is not None
        if length != "8":  # a stretch is 6 s or more: no crop runs over its end
            assert clip.noise_start <= clip.noise_offset <= clip.noise_stop - n_samples
        if clip.labels == (0,):
            assert clip.speech_file is None and clip.event_start == -1
            continue
        speech = read_audio(data.audio_root / clip.speech_file)
        assert clip.event_start >= 0 and clip.event_stop == clip.event_start + len(speech) <= n_samples
        starts.add(clip.event_start)
        if clip.split != "test":
            continue
        noise = render_clip(data.audio_root, dataclasses.replace(clip, speech_file=None)).astype(float)
        heard = (render_clip(data.audio_root, clip) - noise)[clip.event_start : clip.event_stop]
        measured = 20 * np.log10(np.sqrt(np.mean(heard**2)) / np.sqrt(np.mean(noise**2)))
        assert measured == pytest.approx(clip.snr_db, abs=0.1) and 3 <= clip.snr_db <= 9
    assert len(starts) > (1 if length == "1" else 50)


def test_no_sample_of_the_six_noises_is_in_two_splits(copy, tmp_path):
    """With clips of 8 s, longer than the 6 s that validation and test have of each."""
    data = prepared("nscv2", tmp_path / "n", "--root", copy, "--length", "8")
    heard = {split: np.zeros((6, 480_000), bool) for split in SPLITS}
    for clip in data.clips:
        last = clip.noise_stop - clip.noise_start
        samples = clip.noise_start + (clip.noise_offset - clip.noise_start + np.arange(clip.n_samples)) % last
        heard[clip.split][BACKGROUND.index(Path(clip.noise_file).stem), samples] = True
    assert not (heard["train"] & heard["validation"]).any()
    assert not ((heard["train"] | heard["validation"]) & heard["test"]).any()
    assert heard["train"].any(axis=1).sum() == 6


def test_noise_repeats_within_its_stretch(tmp_path):
    soundfile.write(tmp_path / "n.wav", np.arange(10, dtype=np.int16), 16000, subtype="PCM_16")
    crop = noise_crop(tmp_path / "n.wav", 5, 6, start=3, stop=7)
    assert (crop * 32768).tolist() == [5, 6, 3, 4, 5, 6]


def test_training_mixes_afresh_within_the_training_stretches(copy, tmp_path):
    """What is for validation and test is made silent: no epoch of training hears silence."""
    silenced = tmp_path / "copy"
    shutil.copytree(copy, silenced)
    data = prepared("nscv2", tmp_path / "n", "--root", silenced, "--length", "2")
    for name in BACKGROUND:
        path = silenced / "_background_noise_" / f"{name}.wav"
        pcm = soundfile.read(path, dtype="int16")[0]
        pcm[288_000:] = 0
        soundfile.write(path, pcm, 16000, subtype="PCM_16")
    clips = TrainingClips(data, seed=0)
    quiet = [index for index, clip in enumerate(clips.clips) if clip.labels == (0,)]
    for clips.epoch in range(20):
        for clips.n_samples in (8000, None):
            for index in quiet[:3]:
                assert np.count_nonzero(clips[index]["waveform"]) > 0.9 * len(clips[index]["waveform"])


def test_a_manifest_from_before_noise_had_stretches_reads_as_whole_recordings(copy, tmp_path):
    data = prepared("speech_commands", tmp_path / "sc", "--root", copy)
    table = pq.read_table(tmp_path / "sc" / "manifest.parquet")
    pq.write_table(table.drop_columns(["noise_start", "noise_stop"]), tmp_path / "sc" / "manifest.parquet")
    older = read_manifest(tmp_path / "sc")
    assert older.clips == tuple(dataclasses.replace(clip, noise_start=0, noise_stop=None) for clip in data.clips)


def own_noise(folder: Path, n: int, seconds: float = 2) -> Path:
    folder.mkdir()
    for seed in range(n):
        noise = np.random.default_rng(seed).uniform(-0.1, 0.1, int(8000 * seconds))
        soundfile.write(folder / f"noise {seed}.flac", noise, 8000)
    return folder


def test_many_noises_are_each_one_splits_alone(copy, tmp_path):
    noise = own_noise(tmp_path / "noise", 16)
    shutil.copy(noise / "noise 0.flac", noise / "the same.flac")
    (noise / "notes.txt").write_text("not noise")
    (noise / "broken.wav").write_bytes(b"RIFF")
    data = prepared("nscv2", tmp_path / "n", "--root", copy, "--noise", noise)
    regions = {split: noise_regions(data.split(split)) for split in SPLITS}
    files = {split: {region.file for region in regions[split]} for split in SPLITS}
    assert [len(files[split]) for split in SPLITS] == [10, 3, 3]
    assert len(files["train"] | files["validation"] | files["test"]) == 16
    assert set(regions["test"]) == {NoiseRegion(name, 0, 32000) for name in files["test"]}
    left_out = {each["file"] for each in data.info.sources[1]["left_out"]}
    assert left_out == {"broken.wav", "the same.flac"}


def test_noise_that_is_silent_where_a_split_has_it_is_left_out(copy, tmp_path):
    """Its last fifth is the test split's: raised from nothing it would be zeros, or a buzz."""
    noise = own_noise(tmp_path / "noise", 4, seconds=20)
    samples, _ = soundfile.read(noise / "noise 3.flac")
    samples[-40000:] = 1 / 32768  # a last bit
    soundfile.write(noise / "noise 3.flac", samples, 8000)
    soundfile.write(os.fsencode(noise) + b"/Ger\xe4usch.wav", samples[:40000], 8000)
    data = prepared("nscv2", tmp_path / "n", "--root", copy, "--noise", noise)
    left_out = {each["file"]: each["reason"] for each in data.info.sources[1]["left_out"]}
    assert "nothing is heard in its stretch for test" in left_out["noise 3.flac"]
    assert len(left_out) == 2 and any("its name is not UTF-8" in reason for reason in left_out.values())
    assert {region.file for region in noise_regions(data.clips)} == {f"noise/noise {i}.flac" for i in range(3)}


def test_a_silent_crop_of_noise_is_drawn_again(tmp_path):
    """Half of the recording is silence: a crop of it would be raised to the level drawn."""
    samples = np.random.default_rng(0).uniform(-0.1, 0.1, 64000)
    samples[:32000] = 0
    soundfile.write(tmp_path / "n.wav", samples, 16000)
    silent, recipe = Clip("s", "train", (0,), 1600), MixRecipe(1600, (0.0, 0.0))
    rng = np.random.default_rng(1)
    clips = [mix(silent, tmp_path, [NoiseRegion("n.wav", 0, 64000)], recipe, rng) for _ in range(40)]
    assert all(np.abs(render_clip(tmp_path, clip).astype(int)).max() > 50 for clip in clips)
    soundfile.write(tmp_path / "n.wav", np.zeros(64000), 16000)
    with pytest.raises(TkdError, match=r"n.wav: almost all of it is silent\. Remove it"):
        mix(silent, tmp_path, [NoiseRegion("n.wav", 0, 64000)], recipe, rng)


def test_few_or_short_noises_are_answered_with_what_is_needed(copy, tmp_path):
    arguments = ("nscv2", "--root", copy, "--out", tmp_path / "n", "--noise")
    short = run(*arguments, own_noise(tmp_path / "short", 3))
    assert (
        "2.00 s, shared by three splits (a fifth each for validation and test); every split needs 1 s" in short.stderr
    )
    assert short.exit_code == 1 and short.stderr.endswith("short: 0 recordings of noise that can be used. Add some.\n")
    (tmp_path / "empty").mkdir()
    assert "empty: no recordings of noise in it (.aif, " in run(*arguments, tmp_path / "empty").stderr
    assert "nowhere: no such folder. Give --noise a folder" in run(*arguments, tmp_path / "nowhere").stderr
    assert not (tmp_path / "n").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nscv2", "--length", "0.5"), "length 0.5 s: a word takes 1 s. Use 1 to 600 s; the paper 2, 4, 6, 8."),
        (("nscv2", "--length", "nan"), "length nan s"),
        (("nscv2", "--snr", "9", "3"), "SNR 9.0 to 3.0 dB: give the lower one first"),
        (("nscv2", "--version", "1"), "--version does not go with nscv2, which takes --root, --length, --snr, --noise"),
        (("speech_commands", "--labels", "20"), "version 2 with 20 labels: use version 1 or 2, 12 or 35 labels."),
        (("speech_commands", "--length", "2"), "--length does not go with speech_commands"),
        (("speech_commands", "--seed", "-1"), "seed -1 is negative"),
    ],
)
def test_a_wrong_option_exits_2_before_anything_is_fetched(tmp_path, monkeypatch, arguments, message):
    monkeypatch.setenv("TKD_HOME", str(tmp_path / "home"))
    result = run(*arguments, "--out", tmp_path / "d")
    assert result.exit_code == 2 and message in result.stderr
    assert not list(tmp_path.iterdir())


def test_what_is_no_copy_is_refused(tmp_path):
    result = run("nscv2", "--root", tmp_path, "--out", tmp_path / "d")
    assert result.exit_code == 1 and f"{tmp_path}: no copy of Speech Commands (validation_list.txt and" in result.stderr
    make_copy(tmp_path / "c", words=("yes", "no"), noise_seconds=1)
    (tmp_path / "c" / "validation_list.txt").write_text("yes/nobody.wav\n")
    result = run("nscv2", "--root", tmp_path / "c", "--out", tmp_path / "d")
    assert "c: a name that is not WORD/SPEAKER_nohash_N.wav" in result.stderr
    (tmp_path / "c" / "validation_list.txt").write_text("")
    result = run("nscv2", "--root", tmp_path / "c", "--out", tmp_path / "d")
    assert "c: no recordings of the words in the split validation. Is the copy whole?" in result.stderr


def test_the_archive_is_fetched_checked_and_unpacked_once(copy, tmp_path, monkeypatch):
    monkeypatch.setenv("TKD_HOME", str(tmp_path / "home"))
    (tmp_path / "web").mkdir()
    with tarfile.open(tmp_path / "web" / "speech_commands_v0.02.tar.gz", "w:gz", compresslevel=1) as tar:
        tar.add(copy, ".")
    wrong = "sha256:" + 64 * "0"
    with file_server(tmp_path / "web") as server:
        remote = RemoteFile(f"{server.url}/speech_commands_v0.02.tar.gz", wrong)
        monkeypatch.setitem(module.ARCHIVES, 2, remote)
        refused = run("speech_commands", "--out", tmp_path / "sc")
        assert refused.exit_code == 1
        (right,) = re.findall(r"arrived with the checksum (\S+), expected sha256:0{64};", refused.stderr)
        monkeypatch.setitem(module.ARCHIVES, 2, dataclasses.replace(remote, checksum=right))
        data = prepared("speech_commands", tmp_path / "sc")
        noisy = prepared("nscv2", tmp_path / "n", "--length", "2")
        assert len(server.served) == 2
    assert data.audio_root == tmp_path / "home" / "data" / "speech_commands_v0.02"
    assert data.sha256() == prepared("speech_commands", tmp_path / "there", "--root", copy).sha256()
    assert data.info.sources[0]["archive"] == right
    assert render_clip(noisy.audio_root, noisy.clips[0]).any()


@pytest.mark.parametrize(
    ("arguments", "teacher", "cache"),
    [
        ("", "teachers/nscv2-8s/wav2vec2-large-xlsr-53", "caches/nscv2-8s.zarr"),
        ("BASE=microsoft/wavlm-base", "teachers/nscv2-8s/wavlm-base", "caches/nscv2-8s-wavlm-base.zarr"),
        ("TEACHER=bundled", "bundled", "caches/nscv2-8s-bundled.zarr"),
        ("TEACHER=teachers/mine", "teachers/mine", "caches/nscv2-8s-mine.zarr"),
    ],
)
def test_make_teacher_cache_prepares_fine_tunes_builds_and_validates(tmp_path, arguments, teacher, cache):
    makefile = Path(__file__).parent.parent / "Makefile"
    command = ["make", "-n", "-f", makefile, "-o", "setup", "teacher-cache", "DATASET=nscv2", "LENGTH=8", "ROOT=copy"]
    alone = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # not under make test
    done = subprocess.run(
        [*command, *arguments.split()], cwd=tmp_path, env=alone, capture_output=True, text=True, check=True
    )
    steps = [line.removeprefix(".venv/bin/tkd ") for line in done.stdout.splitlines()]
    base = arguments.removeprefix("BASE=") if "BASE" in arguments else "facebook/wav2vec2-large-xlsr-53"
    assert steps[0] == "data prepare nscv2 --length 8 --root 'copy' --out data/nscv2-8s"
    assert steps[-3:] == [
        f"cache build --data data/nscv2-8s --teacher {teacher} --out {cache}",
        f"cache validate {cache}",
        f"cache info {cache}",
    ]
    fine_tuned = [step for step in steps if step.startswith(f"teacher train --data data/nscv2-8s --base '{base}' ")]
    assert len(fine_tuned) == len(steps) - 4 == (0 if "TEACHER" in arguments else 1)
    assert all(step.endswith(f" --out {teacher}") for step in fine_tuned)
