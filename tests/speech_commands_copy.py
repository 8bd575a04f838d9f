"""A small copy of Speech Commands, laid out as its archive unpacks: words, lists, background noise, texts."""

import hashlib
from pathlib import Path

import numpy as np
import soundfile

from pipeline.data.published.speech_commands import OTHER_WORDS, WORDS

BACKGROUND = ("doing_the_dishes", "dude_miaowing", "exercise_bike", "pink_noise", "running_tap", "white_noise")
RATE = 16000  # Hz


def official_split(speaker: str) -> str:
    """The split of a speaker by the rule in the data set's README, 10 % each to validation and testing."""
    hashed = int(hashlib.sha1(speaker.encode()).hexdigest(), 16)
    percent = (hashed % (2**27)) * (100 / (2**27 - 1))
    return "validation" if percent < 10 else "test" if percent < 20 else "train"


def speakers(n_train: int, n_validation: int, n_test: int) -> list[str]:
    """The first speakers 00000000, 00000001, ... that make up these splits."""
    wanted, found = {"train": n_train, "validation": n_validation, "test": n_test}, []
    number = 0
    while any(wanted.values()):
        speaker = f"{number:08x}"
        number += 1
        if wanted[official_split(speaker)]:
            wanted[official_split(speaker)] -= 1
            found.append(speaker)
    return found


def make_copy(folder: Path, words=(*WORDS, *OTHER_WORDS), counts=(6, 3, 3), noise_seconds: float = 30) -> Path:
    """Makes the copy. A speaker says a word once, as a tone of 1 s, the last one of a word 0.6 s, in 16-bit WAV."""
    listed: dict[str, list[str]] = {"validation": [], "test": []}
    for number, word in enumerate(words):
        (folder / word).mkdir(parents=True)
        for index, speaker in enumerate(speakers(*counts)):
            name = f"{word}/{speaker}_nohash_0.wav"
            n_samples = RATE if index < sum(counts) - 1 else 9600
            time = np.arange(n_samples) / RATE  # seconds
            tone = (0.1 + 0.02 * index) * np.sin(2 * np.pi * (200 + 40 * number + index) * time)
            soundfile.write(folder / name, tone, RATE, subtype="PCM_16")
            if official_split(speaker) != "train":
                listed[official_split(speaker)].append(name)
    for split, name in {"validation": "validation_list.txt", "test": "testing_list.txt"}.items():
        (folder / name).write_text("".join(f"{line}\n" for line in listed[split]))
    (folder / "README.md").write_text("# Speech Commands Data Set v0.02\n")
    (folder / "LICENSE").write_text("Creative Commons BY 4.0\n")
    (folder / "_background_noise_").mkdir()
    (folder / "_background_noise_" / "README.md").write_text("Background noise samples\n")
    for seed, name in enumerate(BACKGROUND):
        noise = np.random.default_rng(seed).uniform(-0.1, 0.1, int(noise_seconds * RATE))
        soundfile.write(folder / "_background_noise_" / f"{name}.wav", noise, RATE, subtype="PCM_16")
    return folder
