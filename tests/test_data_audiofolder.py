"""Your own recordings as Hugging Face datasets lays them out: the splits and labels that it would read."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_data_folder import by_split, record

from pipeline.cli.main import tkd
from pipeline.data.own.audiofolder import list_audiofolder
from pipeline.data.own.listing import RecordingsConfig, read_listing
from pipeline.data.prepare import prepare
from pipeline.errors import TkdError


def prepared(root, **settings):
    listing, config = list_audiofolder(root), RecordingsConfig(**settings)
    return prepare(root.parent / "d", listing.recipe(config), lambda work: read_listing(listing, config), force=True)


def tree(root: Path, *names: str) -> Path:
    for name in names:
        record(root / name, 0.1)
    return root


def ids(manifest):
    return [sorted(part) for part in by_split(manifest, "clip_id")]


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train", "validation", "test"),
        ("training", "valid", "testing"),
        ("data/train", "data/val", "data/eval"),
        ("Train-clean", "my_dev", "evaluation 2"),
    ],
)
def test_folders_name_split_and_label(tmp_path, train, validation, test):
    folders = {train: 3, validation: 2, test: 1}
    names = [
        f"{folder}/{label}/{i}.wav" for folder, n in folders.items() for label in ("größer", "lamp") for i in range(n)
    ]
    root = tree(tmp_path / "own", *names)
    for ignored in ("README.md", ".git/x.wav", "__MACOSX/x.wav", f"{train}/.hidden.wav"):
        (root / ignored).parent.mkdir(exist_ok=True)
        (root / ignored).write_bytes(b"x")
    there = prepared(root, strict=True)
    assert (there.info.name, there.info.labels) == ("own", ("größer", "lamp"))
    assert [len(part) for part in ids(there)] == [6, 4, 2]
    assert {name for part in ids(there) for name in part} == set(names)
    assert all(clip.clip_id.split("/")[-2] == there.info.labels[clip.labels[0]] for clip in there.clips)


def test_a_label_may_have_the_name_of_a_split(tmp_path):
    root = tree(
        tmp_path / "own",
        *(f"{s}/{label}/{i}.wav" for s in ("train", "test") for label in ("test", "x") for i in range(3)),
    )
    there = prepared(root)
    assert there.info.labels == ("test", "x")
    assert all(name.startswith("test/") for name in ids(there)[2]) and len(ids(there)[2]) == 6


def test_without_splits_recordings_are_dealt(tmp_path):
    root = tree(tmp_path / "own", *(f"{label}/{i}.wav" for label in ("a", "b") for i in range(10)))
    assert [len(part) for part in ids(prepared(root))] == [16, 2, 2]


def test_train_and_test_alone_get_a_validation_split(tmp_path, capfd):
    root = tree(
        tmp_path / "own", *(f"{s}/{label}/{i}.wav" for s in ("train", "test") for label in ("a", "b") for i in range(4))
    )
    there = prepared(root)
    assert [len(part) for part in ids(there)] == [6, 2, 8]
    assert "no validation is given: a tenth of train is dealt to it" in capfd.readouterr().err


def test_what_lies_elsewhere_is_left_out_by_name(tmp_path):
    root = tree(
        tmp_path / "own",
        *(f"{split}/{label}/{i}.wav" for split in ("train", "dev", "test") for label in ("a", "b") for i in range(2)),
        *("more/a/0.wav", "train/loose.wav", "train/a/deeper/0.wav"),
    )
    (root / "train" / "a" / "link.wav").symlink_to("nowhere")
    (root / "train" / "a" / "notes.txt").write_text("no audio")
    there = prepared(root)
    assert len(there.clips) == 12
    reasons = {each["file"]: each["reason"] for each in there.info.sources[0]["left_out"]}
    assert {
        name: reason.partition(": ")[2].partition(".")[0].partition(" (")[0] for name, reason in reasons.items()
    } == {
        "more/a/0.wav": "in the folder of no split, while others are",
        "train/loose.wav": "not directly in the folder of a label, expected SPLIT/LABEL/FILE",
        "train/a/deeper/0.wav": "not directly in the folder of a label, expected SPLIT/LABEL/FILE",
        "train/a/link.wav": "not a file",
        "train/a/notes.txt": "cannot be read as audio",
    }


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_tables_of_metadata_name_the_labels(tmp_path, capfd, kind):
    """One table a split; folders then mean nothing but the split."""
    root = tree(
        tmp_path / "own", *(f"{split}/{i % 2}/{i}.wav" for split in ("train", "validation", "test") for i in range(6))
    )
    for split in ("train", "validation", "test"):
        rows = [(f"{i % 2}/{i}.wav", "ab"[i // 3], f"speaker {i} of {split}") for i in range(5)]
        csv = "file_name,label,speaker\n" + "".join(f"{','.join(row)}\n" for row in rows)
        lines = "\n".join(json.dumps(dict(zip(("file_name", "label", "speaker"), row, strict=True))) for row in rows)
        (root / split / f"metadata.{kind}").write_text(csv if kind == "csv" else lines)
    there = prepared(root)
    assert there.info.labels == ("a", "b") and [len(part) for part in ids(there)] == [5, 5, 5]
    assert {clip.clip_id: (clip.labels, clip.speaker) for clip in there.clips}["test/1/3.wav"] == (
        (1,),
        "speaker 3 of test",
    )
    assert "3 other files are in none of the tables, and not used" in capfd.readouterr().err


def test_an_id_that_two_tables_give_is_a_wrong_line(tmp_path):
    root = tree(tmp_path / "own", *(f"{split}/{i}.wav" for split in ("train", "dev", "test") for i in range(4)))
    for split, first in (("train", 0), ("dev", 3), ("test", 10)):
        rows = "".join(f"{i}.wav,{'ab'[i % 2]},{first + i}\n" for i in range(4))
        (root / split / "metadata.csv").write_text("file_name,label,clip_id\n" + rows)
    there = prepared(root)
    (fault,) = [each["reason"] for each in there.info.sources[0]["left_out"]]
    assert fault == (  # tables in the order of their names: dev before train
        f"{root}/train/metadata.csv:5: the clip_id 3 is that of {root}/dev/metadata.csv:2, too. Give it another."
    )


def test_folders_that_are_links_are_looked_into_but_for_those_back_up(tmp_path):
    root = tree(tmp_path / "own", *(f"{label}/{i}.wav" for label in "ab" for i in range(4)))
    tree(tmp_path / "big", *(f"{i}.wav" for i in range(4)))
    (root / "c").symlink_to(tmp_path / "big")
    (root / "a" / "up").symlink_to(root)
    there = prepared(root)
    assert there.info.labels == ("a", "b", "c") and len(there.clips) == 12


def test_one_table_with_several_labels(tmp_path):
    """Beside its recordings, its own splits; a folder that names a split goes before the column."""
    root = tree(tmp_path / "own", *(f"data/{i}.wav" for i in range(6)), "test/6.wav")
    rows = [
        {"file_name": f"data/{i}.wav", "labels": ["x", "y"][: 1 + i % 2], "split": "val" if i < 2 else "train"}
        for i in range(6)
    ]
    rows.append({"file_name": "test/6.wav", "labels": ["y"], "split": "train"})
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    there = prepared(root)
    assert (there.info.task, there.info.labels) == ("multi_label", ("x", "y"))
    assert ids(there) == [[f"data/{i}.wav" for i in range(2, 6)], ["data/0.wav", "data/1.wav"], ["test/6.wav"]]


def test_wrong_lines_of_tables_are_named(tmp_path):
    root = tree(tmp_path / "own", *(f"{split}/{i}.wav" for split in ("train", "test") for i in range(8)), "../away.wav")
    for split, more in (("train", "none.wav,a\n../test/0.wav,\n"), ("test", "../../away.wav,a\n")):
        (root / split / "metadata.csv").write_text(
            "file_name,label\n" + "".join(f"{i}.wav,{'ab'[i % 2]}\n" for i in range(8)) + more
        )
    there = prepared(root)
    found = [each["reason"].replace(str(tmp_path), "") for each in there.info.sources[0]["left_out"]]
    assert [reason.partition(". ")[0] for reason in found] == [
        "/own/train/metadata.csv:10: /own/train/none.wav: no such file",
        "/own/train/metadata.csv:11: an empty label",
        "/own/test/metadata.csv:10: /away.wav lies outside of /own",
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), r"no recordings found\. Expected SPLIT/LABEL/FILE"),
        (
            ("a.wav", "b.wav"),
            r"no recordings found\..*The first fault: .*a\.wav: not directly in the folder of a label",
        ),
        (("train/a.wav", "test/a.wav"), "no recordings found"),
    ],
)
def test_a_folder_laid_out_otherwise_is_refused(tmp_path, names, message):
    (tmp_path / "own").mkdir()
    with pytest.raises(TkdError, match=message):
        list_audiofolder(tree(tmp_path / "own", *names))


def test_tables_must_agree_on_what_a_label_is(tmp_path):
    root = tree(tmp_path / "own", "train/0.wav", "test/0.wav")
    for split, column in (("train", "label"), ("test", "labels")):
        (root / split / "metadata.csv").write_text(f"file_name,{column}\n0.wav,a\n")
    with pytest.raises(TkdError, match=r"some tables have the column label, others labels"):
        list_audiofolder(root)


@pytest.mark.parametrize("name", ["csv", "audiofolder"])
def test_the_commands_prepare_once_and_name_what_they_need(tmp_path, name):
    root = tree(
        tmp_path / "own",
        *(f"{split}/{label}/{i}.wav" for split in ("train", "dev", "test") for label in "ab" for i in range(2)),
    )
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.wav"))
    table = tmp_path / "clips.csv"
    table.write_text(
        "path,label,split\n" + "".join(f"{file},{file.split('/')[1]},{file.split('/')[0]}\n" for file in files)
    )
    given = ("--root", table, "--audio", root) if name == "csv" else ("--root", root)
    command = ["data", "prepare", name, *map(str, given), "--length", "0.2", "--out", str(tmp_path / "d")]
    shown = [CliRunner().invoke(tkd, command) for _ in range(2)]
    dataset = {"csv": "clips", "audiofolder": "own"}[name]
    assert shown[0].stdout == f"{tmp_path / 'd'}: {dataset}, 2 labels, 4 train, 4 validation, 4 test clips\n"
    assert (shown[1].stdout, shown[1].stderr) == (shown[0].stdout, "")
    refused = CliRunner().invoke(tkd, ["data", "prepare", name, "--out", "x"])
    assert refused.exit_code == 2 and f"{name} needs --root" in refused.stderr
