"""Spoken data: the same for everybody, split without leaks, labelled and counted as promised."""

import collections
import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import soundfile

from pipeline.data.clip import SPLITS
from pipeline.data.manifest import read_manifest
from pipeline.data.prepare import prepare
from pipeline.data.spoken import espeak
from pipeline.data.spoken.speech import slug, voices_by_split
from pipeline.data.spoken.synth import MINI, OTHER_WORDS, WORDS, SynthConfig, make_synth, mini
from pipeline.errors import TkdError

SMALL = SynthConfig(clips=(24, 12, 12), length_seconds=2.5, noise_recordings=(1, 1, 1), seed=5)

PREPARE = """
import sys, pathlib
from test_data_synth import SMALL, make_synth, prepare
prepare(pathlib.Path(sys.argv[1]), SMALL.recipe(), lambda work: make_synth(work, SMALL, int(sys.argv[2])))
"""


def start(out: Path, n_workers: int) -> subprocess.Popen:
    """Prepares SMALL in a process of its own."""
    command = [sys.executable, "-c", PREPARE, str(out), str(n_workers)]
    return subprocess.Popen(command, cwd=Path(__file__).parent, stderr=subprocess.DEVNULL)


def content(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "small"
    return prepare(out, SMALL.recipe(), lambda work: make_synth(work, SMALL, 1))


def make(tmp_path, **settings):
    config = SynthConfig(noise_recordings=(1, 1, 1), **settings)
    return prepare(tmp_path / "d", config.recipe(), lambda work: make_synth(work, config, 2))


# Reproducible


def test_another_process_with_other_workers_makes_the_same_bytes(small, tmp_path):
    assert start(tmp_path / "d", n_workers=3).wait() == 0
    assert read_manifest(tmp_path / "d").sha256() == small.sha256()
    assert content(tmp_path / "d") == content(small.root)


@pytest.mark.parametrize("moment", ["speech/*/*/*.flac", "noise/*/*.flac"])
def test_a_killed_preparation_looks_unfinished_and_resumes_to_the_same(small, tmp_path, moment):
    process = start(tmp_path / "d", n_workers=1)
    while len(list((tmp_path / "d.partial").glob(moment))) < 3 and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert {path.name for path in tmp_path.iterdir()} == {".d.lock", "d.partial"}  # the lock died with its holder
    with pytest.raises(TkdError, match="no prepared dataset"):
        read_manifest(tmp_path / "d.partial")
    kept = next((tmp_path / "d.partial").glob(moment))
    written = kept.stat().st_mtime_ns
    prepare(tmp_path / "d", SMALL.recipe(), lambda work: make_synth(work, SMALL, 2))
    assert [path.name for path in tmp_path.glob("[!.]*")] == ["d"]
    assert content(tmp_path / "d") == content(small.root)
    if moment.startswith("noise"):
        kept = tmp_path / "d" / kept.relative_to(tmp_path / "d.partial")
        assert kept.stat().st_mtime_ns == written  # resumed, not begun again


@pytest.mark.parametrize("variant", ["whisper", "f3", "Alicia", "m1"])
def test_a_breathy_voice_does_not_depend_on_the_clock(variant):
    """espeak-ng seeds the noise in such voices from the time in seconds."""
    words = [espeak.Utterance("yes", 100, 50), espeak.Utterance("six", 120, 30)]
    first = espeak.speak(f"gmw/en+{variant}", words)
    time.sleep(1.01)
    assert espeak.speak(f"gmw/en+{variant}", words) == first


def test_another_seed_makes_other_sounds(small, tiny_data):
    def drawn(manifest):
        return {(clip.speaker, slug(clip.speech_file)) for clip in manifest.clips if clip.speech_file}

    assert len(drawn(tiny_data) & drawn(small)) < 0.1 * len(drawn(small))
    noise = {clip.noise_file for clip in small.clips}
    assert noise <= {clip.noise_file for clip in tiny_data.clips}  # the same names,
    assert not any((tiny_data.root / name).read_bytes() == (small.root / name).read_bytes() for name in noise)


# Splits


def test_timbres_are_disjoint_between_splits_and_leave_none_out():
    timbres = {split: {voice.partition("+")[2] for voice in voices} for split, voices in voices_by_split().items()}
    assert set(timbres) == set(SPLITS)
    assert sum(map(len, timbres.values())) == len(set().union(*timbres.values())) == len(espeak.variants())
    assert len(timbres["train"]) > 0.65 * len(espeak.variants()) and len(timbres["test"]) > 10


def test_no_two_voices_share_a_file_name():
    names = [slug(voice).casefold() for voices in voices_by_split().values() for voice in voices]
    assert len(set(names)) == len(names)


def test_no_recording_is_in_two_splits(tiny_data):
    voices = voices_by_split()
    for attribute in ("speech_file", "noise_file", "speaker"):
        used = [{getattr(clip, attribute) for clip in tiny_data.split(split)} - {None} for split in SPLITS]
        assert all(used) and len(set().union(*used)) == sum(map(len, used))
    for split in SPLITS:
        assert {clip.speaker for clip in tiny_data.split(split)} - {None} <= set(voices[split])
    files = list(tiny_data.root.rglob("*.flac"))
    assert len({soundfile.read(path)[0].tobytes() for path in files}) == len(files)  # not the same sound, either


def test_voices_that_espeak_does_not_know_are_not_asked_for():
    """An unknown variant would be ignored silently: every voice must differ from the plain one."""
    word = [espeak.Utterance("seven", 100, 50)]
    plain = espeak.speak("gmw/en", word)
    for variant in espeak.variants()[::13]:
        assert espeak.speak(f"gmw/en+{variant}", word) != plain


# Labels and counts


def test_labels_are_what_is_said(tiny_data):
    assert tiny_data.info.labels == ("_silence_", "_unknown_", *WORDS)
    for clip in tiny_data.clips:
        name = tiny_data.info.labels[clip.labels[0]]
        said = clip.speech_file and clip.speech_file.split("/")[2]
        assert said == (None if name == "_silence_" else said if name == "_unknown_" else name)
        assert (said in OTHER_WORDS) == (name == "_unknown_")
        assert clip.n_samples == 32000


def counts(manifest):
    return [
        collections.Counter(manifest.info.labels[clip.labels[0]] for clip in manifest.split(split)) for split in SPLITS
    ]


def test_silence_and_unknown_are_each_a_tenth_of_the_words_rounded_up(tmp_path):
    """84 clips are 70 with words and 7 of each other label; 12 are 10 and 1."""
    for count, n in zip(counts(make(tmp_path, clips=(84, 12, 13))), (7, 1, 1), strict=True):
        assert count == dict.fromkeys(("_silence_", "_unknown_", *WORDS), n)


def test_mini_is_the_fixed_recipe():
    fixed = SynthConfig(
        "mini",
        ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"),
        (4000, 600, 600),
        4.0,
        (0.0, 15.0),
    )
    assert fixed == MINI
    assert MINI.recipe()["kind"] == "synth" and MINI.seed == 0 and MINI.noise_recordings == (10, 4, 4)


def test_other_noise_leaves_words_places_and_loudness_as_they_were(tmp_path):
    config = mini(noise_kinds=("rain", "alarm"))
    assert config.name == "mini-rain-alarm" and config.recipe()["noise_kinds"] == ("rain", "alarm")
    assert "noise_kinds" not in MINI.recipe() and mini() == MINI  # data sets made before there was a choice
    there = make(tmp_path, clips=(12, 12, 12), noise_kinds=("rain", "alarm"))
    noises = {Path(clip.noise_file).stem.split("_")[0] for clip in there.clips}
    assert noises == {"rain", "alarm"}
    usual = make(tmp_path / "usual", clips=(12, 12, 12), noise_kinds=("hum", "coloured"))
    for mine, theirs in zip(there.clips, usual.clips, strict=True):
        same = ("clip_id", "speech_file", "labels", "snr_db", "event_start", "event_stop")
        assert all(getattr(mine, name) == getattr(theirs, name) for name in same)


@pytest.mark.parametrize("kinds", [("drizzle",), (), ("rain", "rain"), ("",)])
def test_noise_that_there_is_not_is_refused(kinds):
    with pytest.raises(TkdError, match=r"no such noise: (drizzle|an empty name).*rain|none, or one stands twice"):
        SynthConfig(noise_kinds=kinds)


def test_words_of_any_script_with_spaces_and_out_of_the_unknown_pool(tmp_path):
    words = ("hey lamp", "écoute", "größer", "up/../down", "Marvin", "привет")
    there = make(tmp_path, words=words, clips=(24, 8, 8))
    assert there.info.labels[2:] == words
    for count, n_word, n_other in zip(counts(there), (3, 1, 1), (2, 1, 1), strict=True):
        assert count == {"_silence_": n_other, "_unknown_": n_other, **dict.fromkeys(words, n_word)}
    said = {path.name for path in (there.root / "speech" / "train").iterdir()}
    assert {"hey_lamp", "écoute", "größer", "up_down", "Marvin", "привет"} <= said
    assert "marvin" not in said and len(said) > len(words)
    assert len({clip.clip_id for clip in there.clips}) == len(there.clips)
    assert read_manifest(there.root).sha256() == there.sha256()


def test_a_phrase_longer_than_the_clip_is_refused_with_the_length_it_takes(tmp_path):
    with pytest.raises(
        TkdError, match=r"'turn .* please' takes up to \d\.\d\d s to say, a clip is 2.0 s long. Give --le"
    ):
        make(tmp_path, words=("turn on all the kitchen lights please",), clips=(2, 2, 2), length_seconds=2.0)
    assert not (tmp_path / "d").exists()


def test_a_long_phrase_makes_a_file_name_that_fits():
    assert slug("né " * 300).startswith("né_né_né_") and len(slug("né " * 300).encode()) < 200


def test_a_word_without_sound_is_named(tmp_path):
    with pytest.raises(TkdError, match=r"espeak-ng says nothing for '\.\.\.' .*Use words of letters"):
        make(tmp_path, words=("...",), clips=(2, 2, 2))
    assert not (tmp_path / "d").exists()


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"words": ()}, "an empty word. Separate words with single commas"),
        ({"words": ("a", " ")}, "an empty word"),
        ({"words": ("lamp", "Lamp")}, "a word stands twice. Name each once"),
        ({"words": ("_unknown_", "a")}, "_unknown_ is a label of every dataset"),
        ({"words": OTHER_WORDS}, "no other word is left to stand for _unknown_"),
        ({"words": ("a\nb",)}, "a character that cannot be printed"),
        ({"words": ("a\udcff",)}, "a character that cannot be printed"),
        ({"length_seconds": float("nan")}, "length nan s: .* Use 2 to 600 s"),
        ({"length_seconds": float("inf")}, "length inf s"),
        ({"length_seconds": 1e9}, "length 1000000000.0 s"),
        ({"length_seconds": -4.0}, "length -4.0 s"),
        ({"length_seconds": 0.0}, "length 0.0 s"),
        ({"snr_db": (15.0, 0.0)}, "SNR 15.0 to 0.0 dB: give the lower one first"),
        ({"snr_db": (float("nan"), 0.0)}, "SNR nan to 0.0 dB"),
        ({"snr_db": (0.0, float("inf"))}, "both from -60 to 60"),
        ({"clips": (24, 12, 11)}, "10 words need 12 to 1000000 in each split"),
        ({"clips": (-5, 12, 12)}, "10 words need 12"),
        ({"clips": (10**12, 12, 12)}, "10 words need 12 to 1000000"),
        ({"seed": -1}, "seed -1 is negative"),
    ],
)
def test_impossible_settings_are_refused_before_the_work(settings, message):
    with pytest.raises(TkdError, match=message):
        SynthConfig(**settings)
