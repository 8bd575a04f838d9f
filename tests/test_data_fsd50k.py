"""FSD50K from a small copy in its layout: official splits, labels in the vocabulary's order, and what differs."""

import hashlib
import json
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from file_server import file_server
from test_data_folder import record

from pipeline.cli.main import tkd
from pipeline.data.audio import render_clip
from pipeline.data.fetch.download import RemoteFile
from pipeline.data.manifest import read_manifest
from pipeline.data.published.fsd50k import ARCHIVES, Fsd50kConfig, find_copy, read_fsd50k
from pipeline.errors import TkdError

VOCABULARY = "0,Accelerating_and_revving_and_vroom,/m/07q2z82\n1,Accordion,/m/0mkg\n2,Music,/m/04rlf\n"
DEV = """fname,labels,mids,split
63,"Accordion,Music","/m/0mkg,/m/04rlf",train
64,Accelerating_and_revving_and_vroom,/m/07q2z82,train
65,Music,/m/04rlf,val
"""
EVAL = 'fname,labels,mids\n37199,"Music,Accordion","/m/04rlf,/m/0mkg"\n37200,Music,/m/04rlf\n'
OTHER = "2 / 1 / 2 clips in train, validation and test of 3 classes"
PUBLISHED = "36,796 / 4,170 / 10,231 clips in train, validation and test of 200 classes"


@pytest.fixture
def copy(tmp_path) -> Path:
    """Five clips of the three classes, at 44.1 kHz, of 0.3 to 2 s."""
    root = tmp_path / "FSD50K"
    (root / "FSD50K.ground_truth").mkdir(parents=True)
    for name, text in (("vocabulary", VOCABULARY), ("dev", DEV), ("eval", EVAL)):
        (root / "FSD50K.ground_truth" / f"{name}.csv").write_text(text)
    for part, ids in (("dev", (63, 64, 65)), ("eval", (37199, 37200))):
        for number, fname in enumerate(ids):
            record(root / f"FSD50K.{part}_audio" / f"{fname}.wav", (0.3, 1.0, 2.0)[number], 44100)
        info = {str(fname): {"title": "a sound", "uploader": f"user {fname}", "license": "CC0"} for fname in ids}
        (root / "FSD50K.metadata").mkdir(exist_ok=True)
        (root / "FSD50K.metadata" / f"{part}_clips_info_FSD50K.json").write_text(json.dumps(info))
    return root


def read(copy, **settings):
    config = Fsd50kConfig(str(copy), **settings)
    return read_fsd50k(find_copy(config), config)


def test_splits_labels_and_uploaders_are_the_official_ones(copy):
    info, clips = read(copy.parent)
    assert (info.task, info.labels[1:]) == ("multi_label", ("Accordion", "Music"))
    assert "CC BY" in info.licence
    assert {clip.clip_id: (clip.split, clip.labels, clip.speaker) for clip in clips} == {
        "dev/63": ("train", (1, 2), "user 63"),
        "dev/64": ("train", (0,), "user 64"),
        "dev/65": ("validation", (2,), "user 65"),
        "eval/37199": ("test", (1, 2), "user 37199"),
        "eval/37200": ("test", (2,), "user 37200"),
    }
    shutil.rmtree(copy / "FSD50K.metadata")
    assert {clip.speaker for clip in read(copy)[1]} == {None}


def test_of_a_long_clip_the_beginning_is_kept(copy):
    clips = {clip.clip_id: clip for clip in read(copy, max_length_seconds=1.0)[1]}
    assert [clips[f"dev/{fname}"].n_samples for fname in (63, 64, 65)] == [4800, 16000, 16000]
    whole = {clip.clip_id: clip for clip in read(copy)[1]}["dev/65"]
    heard, expected = (render_clip(copy, clip)[:15900].astype(int) for clip in (clips["dev/65"], whole))
    assert np.abs(heard - expected).max() <= 1 and whole.n_samples == 32000


def test_other_counts_than_published_are_said_and_strict_stops_before_reading(copy, capfd):
    info, _ = read(copy)
    assert f"WARNING: {copy}: {OTHER}, published are {PUBLISHED}." in capfd.readouterr().err
    assert info.sources[0]["published"] == {"train": 36796, "validation": 4170, "test": 10231}
    with pytest.raises(TkdError, match="published are"):
        read(copy, strict=True)
    assert "reading recordings" not in capfd.readouterr().err
    arguments = ["data", "prepare", "fsd50k", "--root", str(copy), "--out", str(copy.parent / "d")]
    assert CliRunner().invoke(tkd, arguments).exit_code == 0
    again = CliRunner().invoke(tkd, [*arguments, "--strict"])  # the dataset is there already
    assert again.exit_code == 1 and "other numbers of clips than published" in again.stderr


def test_bad_recordings_are_left_out_by_name(copy, capfd):
    (copy / "FSD50K.dev_audio" / "63.wav").unlink()
    soundfile.write(copy / "FSD50K.dev_audio" / "65.wav", np.zeros(44100), 44100)
    info, clips = read(copy)
    assert len(clips) == 3
    assert {each["file"]: each["reason"].partition(": ")[2] for each in info.sources[0]["left_out"]} == {
        "FSD50K.dev_audio/63.wav": "no such file. Put it there, or take it off the list.",
        "FSD50K.dev_audio/65.wav": "all samples are zero. Replace or remove it.",
    }
    assert capfd.readouterr().err.count(f"left out: {copy}/FSD50K.dev_audio/6") == 2


def test_a_recording_in_two_splits_is_said(copy, capfd):
    """Copies within a split are the data set's own, and stay."""
    folder = copy / "FSD50K.eval_audio"
    (folder / "37200.wav").write_bytes((folder / "37199.wav").read_bytes())
    assert len(read(copy)[1]) == 5 and "recordings are in" not in capfd.readouterr().err
    (folder / "37200.wav").write_bytes((copy / "FSD50K.dev_audio" / "64.wav").read_bytes())
    assert len(read(copy)[1]) == 5
    assert f"WARNING: {copy}: 1 recordings are in train and in test." in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("dev", "Music,", "Musik,", r"dev\.csv:4: 'Musik' is not in vocabulary\.csv"),
        ("dev", "val", "test", r"dev\.csv:4: fname '65', split 'test'"),
        ("dev", "64", "../64", r"dev\.csv:3: fname '\.\./64'"),
        ("dev", "fname,", "", r"dev\.csv:1: columns labels, mids, split, expected fname, labels, mids, split"),
        ("eval", "37200,", "", r"eval\.csv:3: 2 values, expected 3"),
        ("eval", '"Music', "Music", r"eval\.csv:2: 4 values|eval\.csv: cannot be read"),
        ("vocabulary", "1,A", "2,A", r"vocabulary\.csv:2: index 2, expected 1"),
        ("vocabulary", "A", "\xff", r"vocabulary\.csv: cannot be read"),
    ],
)
def test_a_damaged_list_is_named_with_its_line(copy, name, old, new, message):
    path = copy / "FSD50K.ground_truth" / f"{name}.csv"
    path.write_text(path.read_text().replace(old, new), encoding="latin-1")
    with pytest.raises(TkdError, match=message):
        read(copy)


def test_a_folder_that_is_no_copy_is_refused(tmp_path):
    with pytest.raises(TkdError, match=r"no copy of FSD50K .*is expected, beside FSD50K\.dev_audio"):
        read(tmp_path)


@pytest.mark.parametrize("seconds", [float("nan"), 0.0, 0.03, 30.1])
def test_impossible_lengths_are_refused(seconds):
    with pytest.raises(TkdError, match=r"max length .* s: use 0\.04 \(one frame\) to 30 s"):
        Fsd50kConfig(max_length_seconds=seconds)


def test_the_command_prepares_a_copy_and_says_what_was_left_out(copy):
    (copy / "FSD50K.dev_audio" / "63.wav").write_bytes(b"RIFF")
    out = copy.parent / "d"
    shown = CliRunner().invoke(
        tkd, ["data", "prepare", "fsd50k", "--root", str(copy), "--max-length", "1", "--out", str(out)]
    )
    assert shown.stdout == f"{out}: fsd50k, 3 labels, 1 train, 1 validation, 2 test clips\n", shown.output
    assert f"1 left out, each with its reason under left_out in {out}/dataset.json" in shown.stderr
    manifest = read_manifest(out)
    assert manifest.info.audio_root == str(copy) and str(copy) not in json.dumps(manifest.info.recipe)


# Its archives


def test_the_archives_are_those_of_the_record():
    remotes = [remote for part in ARCHIVES.values() for remote in part]
    assert len(remotes) == 10
    assert all(remote.url.startswith("https://zenodo.org/records/4060432/files/FSD50K.") for remote in remotes)
    assert all(len(remote.checksum) == len("md5:") + 32 for remote in remotes)
    for part, of_part in ARCHIVES.items():
        assert [remote.name for remote in of_part] == [
            *(f"FSD50K.{part}.z{number:02d}" for number in range(1, len(of_part))),
            f"FSD50K.{part}.zip",
        ]


@pytest.fixture
def served(copy, tmp_path) -> tuple[Path, dict[str, list[str]]]:
    """A folder with the archives of the small copy, dev_audio in three parts, and their names."""
    folder, names = tmp_path / "served", {}
    folder.mkdir()
    for part in ("ground_truth", "metadata", "eval_audio", "dev_audio"):
        size = ["-s", "64k"] if part == "dev_audio" else []
        archive = folder / f"FSD50K.{part}.zip"
        if size and shutil.which("zip") is None:
            pytest.skip("zip is not installed")
        if size:
            subprocess.run(["zip", "-q", "-r", *size, archive, f"FSD50K.{part}"], cwd=copy, check=True)
        else:
            shutil.make_archive(str(archive.with_suffix("")), "zip", copy, f"FSD50K.{part}")
        names[part] = [*sorted(path.name for path in folder.glob(f"FSD50K.{part}.z0*")), archive.name]
    return folder, names


def test_archives_are_fetched_once_however_many_ask_checked_and_unpacked(copy, served, tmp_path, monkeypatch):
    monkeypatch.setenv("TKD_HOME", str(tmp_path / "home"))
    folder, names = served
    assert len(names["dev_audio"]) >= 3
    with file_server(folder) as server:
        archives = {
            part: [
                RemoteFile(f"{server.url}/{name}", "md5:" + hashlib.md5((folder / name).read_bytes()).hexdigest())
                for name in of_part
            ]
            for part, of_part in names.items()
        }
        with ThreadPoolExecutor(2) as pool:
            fetched, too = pool.map(find_copy, [Fsd50kConfig()] * 2, [archives] * 2)
        assert find_copy(Fsd50kConfig(), archives) == fetched == too == tmp_path / "home" / "data" / "FSD50K"
        assert len(server.served) == sum(map(len, names.values()))
    again, clips = read_fsd50k(fetched, Fsd50kConfig())
    assert clips == read(copy)[1] and again.sources[0]["archives"]
    assert not list(fetched.glob("*.unpacked")) and not list(fetched.glob("*.partial"))


def test_a_killed_download_goes_on_where_it_was(copy, served, tmp_path, monkeypatch):
    """Killed after unpacking, before the folder had its name; the archives deleted since."""
    monkeypatch.setenv("TKD_HOME", str(tmp_path / "home"))
    folder, names = served
    there = tmp_path / "home" / "data" / "FSD50K"
    shutil.copytree(copy, there)
    (there / "FSD50K.eval_audio.unpacked").mkdir()
    (there / "FSD50K.eval_audio").rename(there / "FSD50K.eval_audio.unpacked" / "FSD50K.eval_audio")
    with file_server(folder) as server:
        content = (folder / "FSD50K.eval_audio.zip").read_bytes()
        remote = RemoteFile(f"{server.url}/FSD50K.eval_audio.zip", "md5:" + hashlib.md5(content).hexdigest())
        assert find_copy(Fsd50kConfig(), {part: [remote] for part in names}) == there
    assert read_fsd50k(there, Fsd50kConfig())[1] == read(copy)[1]
