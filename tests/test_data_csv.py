"""Your own recordings in a table: what its columns mean, and where and what is wrong in it."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from test_data_folder import by_split, record

from pipeline.data.audio import render_clip
from pipeline.data.clip import SPLITS
from pipeline.data.own.listing import RecordingsConfig, read_listing
from pipeline.data.own.table import list_csv
from pipeline.data.prepare import prepare
from pipeline.errors import TkdError


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.fixture
def audio(tmp_path) -> Path:
    """Twelve recordings of a second: a0.wav to a5.wav, and b0.wav to b5.wav."""
    for letter in "ab":
        for index in range(6):
            record(tmp_path / "audio" / f"{letter}{index}.wav", 1.0)
    return tmp_path / "audio"


PLAIN = "path,label\n" + "".join(f"{letter}{index}.wav,{letter}\n" for letter in "ab" for index in range(6))


def prepared(table, audio=None, out="d", **settings):
    listing, config = list_csv(table, audio), RecordingsConfig(**settings)
    return prepare(table.parent / out, listing.recipe(config), lambda work: read_listing(listing, config), force=True)


def read(table, audio=None, **settings):
    return read_listing(list_csv(table, audio), RecordingsConfig(**settings))


def left_out(info):
    return [each["reason"] for each in info.sources[0]["left_out"]]


# What the columns mean


def test_a_table_becomes_a_dataset(audio, tmp_path):
    there = prepared(write(tmp_path / "clips.csv", PLAIN), audio)
    assert (there.info.name, there.info.task, there.info.labels) == ("clips", "single_label", ("a", "b"))
    assert [len(there.split(split)) for split in SPLITS] == [8, 2, 2]
    for clip in there.clips:
        assert clip.clip_id == clip.speech_file and clip.clip_id[0] == there.info.labels[clip.labels[0]]
        assert (render_clip(there.audio_root, clip) == soundfile.read(audio / clip.clip_id, dtype="int16")[0]).all()


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + PLAIN.encode(),
        PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.replace("\n", "\n\n").encode(),
        PLAIN.replace(",", ";").encode(),
        PLAIN.replace(",", "\t").encode(),
        PLAIN.replace("path", " File_Name ").replace("label", '"Label"').encode(),
        PLAIN.rstrip("\n").encode(),
    ],
)
def test_tables_as_programs_write_them(audio, tmp_path, content):
    expected = read(write(tmp_path / "plain.csv", PLAIN), audio)[1]
    assert read(write(tmp_path / "clips.csv", content), audio)[1] == expected


def test_json_lines_are_the_same_table(audio, tmp_path):
    lines = [json.dumps({"file_name": f"{x}{i}.wav", "label": x, "take": i}) for x in "ab" for i in range(6)]
    assert (
        read(write(tmp_path / "clips.jsonl", "\r\n".join(lines)), audio)[1]
        == read(write(tmp_path / "clips.csv", PLAIN), audio)[1]
    )


def test_several_labels_are_separated_by_semicolons(audio, tmp_path, capfd):
    table = 'path,labels,take\na0.wav,dog ; cat,1\na1.wav,"Bark, howl",2\na2.wav,cat;cat,3\n'
    table += "".join(f'b{index}.wav,cat;dog;"Bark, howl",4\n' for index in range(5))
    info, clips = read(write(tmp_path / "clips.csv", table), audio)
    assert (info.task, info.labels) == ("multi_label", ("Bark, howl", "cat", "dog"))
    assert {clip.clip_id: clip.labels for clip in clips if clip.clip_id < "b"} == {
        "a0.wav": (1, 2),
        "a1.wav": (0,),
        "a2.wav": (1,),
    }
    assert f"{tmp_path}/clips.csv: columns not used: take" in capfd.readouterr().err
    lists = [json.dumps({"path": f"b{index}.wav", "labels": ["x", "y, z"]}) for index in range(6)]
    info, clips = read(write(tmp_path / "clips.jsonl", "\n".join(lists)), audio)
    assert info.labels == ("x", "y, z") and {clip.labels for clip in clips} == {(0, 1)}


def test_a_part_of_a_recording_is_a_clip(audio, tmp_path):
    """At 44.1 kHz in stereo, with its event; what is heard is that part, cut or padded to the length asked for."""
    rate, noise = 44100, np.random.default_rng(0).uniform(-0.5, 0.5, (88200, 2))
    soundfile.write(audio / "long.wav", noise, rate, subtype="FLOAT")
    soundfile.write(audio / "part.wav", noise[11025:55125], rate, subtype="FLOAT")
    rows = "long.wav,a,0.25,1.25,0.75,1.0\nlong.wav,a,1.5,2.004,,\npart.wav,a,,,0.5,0.75\n"
    rows += PLAIN[11:].replace("\n", ",,,,\n")
    table = write(tmp_path / "t.csv", "path,label,start,end,event_start,event_end\n" + rows)
    for length in (None, 0.5, 2.0):
        there = prepared(table, audio, length_seconds=length)
        clips = {clip.clip_id: clip for clip in there.clips}
        part, whole = clips["long.wav#11025-55125"], clips["part.wav"]
        assert (part.event_start, part.event_stop) == (whole.event_start, whole.event_stop)
        assert (render_clip(audio, part) == render_clip(audio, whole)).all()
        assert part.n_samples == round((length or 1) * 16000) and part.split == clips["long.wav#66150-88200"].split
        start = {None: 8000, 0.5: 4000, 2.0: 8000}[length]
        assert (whole.event_start, whole.event_stop) == (start, start + 4000)


def test_an_event_that_is_cut_off_is_unknown(audio, tmp_path):
    rows = PLAIN[11:].replace("\n", ",0.1,0.2\n")
    _, clips = read(write(tmp_path / "t.csv", "path,label,event_start,event_end\n" + rows), audio, length_seconds=0.5)
    assert {(clip.event_start, clip.event_stop) for clip in clips} == {(-1, -1)}


def test_an_event_beyond_the_recording_is_unknown_or_a_wrong_line(audio, tmp_path):
    """Padding is not an event, nor is what another part of the recording holds."""
    rows = PLAIN[11:].replace("\n", ",0,0.5,0.6,0.9\n")
    rows += "a0.wav,a,0.5,1,0.4,0.9\nb0.wav,b,0.5,1,0.9,1.6\n"
    table = write(tmp_path / "t.csv", "path,label,start,end,event_start,event_end\n" + rows)
    info, clips = read(table, audio, length_seconds=2.0)
    events = {clip.clip_id: (clip.event_start, clip.event_stop) for clip in clips}
    assert events.pop("a0.wav#8000-16000") == (0, 6400)
    assert set(events.values()) == {(-1, -1)} and len(events) == 12
    assert left_out(info) == [
        f"{table}:15: the event ends at 1.6 s, {audio}/b0.wav is 1.000 s long. Mend or remove the line."
    ]


def test_names_given_are_kept(audio, tmp_path):
    rows = "".join(f"{x}{i}.wav,{x},id {x}{i},speaker {i}\n" for x in "ab" for i in range(6))
    _, clips = read(write(tmp_path / "t.csv", "path,label,clip_id,speaker\n" + rows), audio)
    assert {(clip.clip_id, clip.speaker, clip.speech_file) for clip in clips} == {
        (f"id {x}{i}", f"speaker {i}", f"{x}{i}.wav") for x in "ab" for i in range(6)
    }


def test_paths_are_relative_to_the_table_to_a_folder_or_absolute(audio, tmp_path):
    expected = read(write(tmp_path / "clips.csv", PLAIN), audio)
    beside = read(write(audio / "clips.csv", PLAIN))
    rows = "".join(f"{audio}/{x}{i}.wav,{x}\n" for x in "ab" for i in range(6))
    (tmp_path / "lists").mkdir()
    absolute = read(write(tmp_path / "lists" / "clips.csv", "path,label\n" + rows))
    assert expected[1] == beside[1] == absolute[1]
    assert {info.audio_root for info, _ in (expected, beside, absolute)} == {str(audio)}


# Splits


def test_splits_are_kept_by_any_of_their_names(audio, tmp_path):
    names = ["Train", "training", "train", "dev", "val", "eval"]
    rows = "".join(f"{x}{i}.wav,{x},{names[i]}\n" for x in "ab" for i in range(6))
    there = prepared(write(tmp_path / "t.csv", "path,label,split\n" + rows), audio)
    ids = by_split(there, "clip_id")
    assert [sorted(part) for part in ids] == [
        ["a0.wav", "a1.wav", "a2.wav", "b0.wav", "b1.wav", "b2.wav"],
        ["a3.wav", "a4.wav", "b3.wav", "b4.wav"],
        ["a5.wav", "b5.wav"],
    ]


@pytest.mark.parametrize("missing", ["validation", "test"])
def test_a_split_that_is_missing_is_dealt_from_train_and_said(audio, tmp_path, capfd, missing):
    other = {"validation": "test", "test": "validation"}[missing]
    rows = "".join(f"{x}{i}.wav,{x},{'' if i else other}\n" for x in "ab" for i in range(6))
    there = prepared(write(tmp_path / "t.csv", "path,label,split\n" + rows), audio)
    assert {clip.clip_id for clip in there.split(other)} == {"a0.wav", "b0.wav"}
    assert len(there.split(missing)) == 2 and len(there.split("train")) == 8
    said = capfd.readouterr().err
    assert f"t.csv: no {missing} is given: a tenth of train is dealt to it" in said
    assert "t.csv: 10 of 12 name no split: taken for train" in said


@pytest.mark.parametrize("spoken", [False, True])
def test_parts_of_a_recording_and_recordings_of_a_speaker_stay_together(tmp_path, spoken):
    """Also through each other: a speaker of three recordings, each with a second speaker of its own."""
    rows = []
    for index in range(30):
        record(tmp_path / "audio" / f"{index}.wav", 0.5)
        speakers = (f"s{index // 3}", f"second of {index}") if spoken else ("", "")
        rows += [f"{index}.wav,{'ab'[index % 2]},{start},{start + 0.2:.1f},{speakers[start > 0]}" for start in (0, 0.2)]
    table = write(tmp_path / "t.csv", "path,label,start,end,speaker\n" + "\n".join(rows))
    there = prepared(table, tmp_path / "audio")
    assert [len(there.split(split)) for split in SPLITS] == ([48, 6, 6] if spoken else [44, 8, 8])
    for what in ("speech_file", *(["speaker"] if spoken else [])):
        parts = by_split(there, what)
        assert sum(map(len, parts)) == len(set().union(*parts))


def test_several_labels_are_spread_fairly(tmp_path):
    """A rare label is in every split; one of two recordings is in train alone."""
    rows = []
    for index in range(100):
        record(tmp_path / "audio" / f"{index}.wav", 0.05)
        labels = ["common", *(["rare"] if index % 10 == 0 else []), *(["single"] if index in (3, 4) else [])]
        rows.append(f"{index}.wav,{';'.join(labels)}")
    there = prepared(write(tmp_path / "t.csv", "path,labels\n" + "\n".join(rows)), tmp_path / "audio")
    assert [len(there.split(split)) for split in SPLITS] == [80, 10, 10]
    counts = {
        label: [sum(number in clip.labels for clip in there.split(split)) for split in SPLITS]
        for number, label in enumerate(there.info.labels)
    }
    assert counts == {"common": [80, 10, 10], "rare": [8, 1, 1], "single": [2, 0, 0]}


@pytest.mark.parametrize(
    ("columns", "row", "message"),
    [
        ("split,speaker", lambda i: f"{('train', 'test')[i % 2]},s{i // 2}", "speaker s0 is in train and test .3 of 3"),
        ("split", lambda i: "test", "nothing is in the split train"),
        ("speaker", lambda i: f"s{i % 2}", "2 speakers; train, validation and test need one each"),
    ],
)
def test_splits_that_cannot_be_are_refused(audio, tmp_path, columns, row, message):
    rows = "".join(f"{x}{i}.wav,{x},{row(i)}\n" for x in "ab" for i in range(6))
    with pytest.raises(TkdError, match=message):
        read(write(tmp_path / "t.csv", f"path,label,{columns}\n{rows}"), audio)


def test_a_label_that_train_lacks_is_named(audio, tmp_path):
    splits = {"a": ["validation", *["train"] * 5], "b": ["validation", "test"] * 3}
    rows = "".join(f"{x}{i}.wav,{x},{splits[x][i]}\n" for x in "ab" for i in range(6))
    with pytest.raises(TkdError, match=r"no recording of b is in the split train\. Add some, or remove the label"):
        read(write(tmp_path / "t.csv", f"path,label,split\n{rows}"), audio)


# Lines that are wrong

HEADER = "path,label,split,start,end,clip_id,event_start,event_end\n"
WRONG = {
    "none.wav,a,,,,,,": "/audio/none.wav: no such file. Mend the path",
    ".,a,,,,,,": "/audio: no such file",
    ",a,,,,,,": "no path. Name the recording",
    "c.wav,,,,,,,": "an empty label. Fill in label",
    "c.wav,a,tset,,,,,": "no such split: tset. Did you mean test? Known: dev, ",
    "c.wav,a,,0.5,0.5,,,": "ends at 0.5 s, starts at 0.5 s",
    "c.wav,a,,0.6,0.5,,,": "ends at 0.5 s, starts at 0.6 s",
    "c.wav,a,,,0,,,": "ends at 0 s, starts at 0 s",
    "c.wav,a,,,1.02,,,": "ends at 1.02 s, {audio}/c.wav is 1.000 s long",
    "c.wav,a,,1.5,,,,": "/audio/c.wav: 0 samples at 16000 Hz, one frame takes 640",
    "c.wav,a,,0.5,0.51,,,": "/audio/c.wav: 160 samples at 16000 Hz, one frame takes 640",
    "c.wav,a,,-1,,,,": "start is '-1', expected seconds as in 1.5",
    'c.wav,a,,"1,5",,,,': "start is '1,5', expected seconds",
    "c.wav,a,,nan,,,,": "start is 'nan', expected seconds",
    "c.wav,a,,,inf,,,": "end is 'inf', expected seconds",
    "c.wav,a,,,,first,,": "the clip_id first is that of {table}:2, too",
    "c.wav,a,,,,,0.1,": "an event from 0.1 to ? s",
    "c.wav,a,,,,,0.2,0.1": "an event from 0.2 to 0.1 s",
    "c.wav,a": "2 values, the first line has 8 columns",
    "c.wav,a,,,,,,,more": "9 values, the first line has 8 columns",
    "a0.wav,b,,0,,,,": "the same recording, or part of one, as {table}:2",
    "a0.wav,b,,,1.004,,,": "the same recording, or part of one, as {table}:2",
    "copy.wav,a,,,,,,": "/audio/copy.wav: the same recording as a0.wav",
    "a1.wav,a,test,0.5,,,,": "/audio/a1.wav is in test here, in train at {table}:3. Keep a recording in one split",
    "broken.wav,a,,,,,,": "/audio/broken.wav: cannot be read as audio",
    "gr\udcf6sser.wav,a,,,,,,": "not UTF-8. Save the table as UTF-8",
    "c\0.wav,a,,,,,,": "no such file",
    "../../../../../etc/passwd,a,,,,,,": "cannot be read as audio",
}


@pytest.mark.parametrize("line", WRONG)
def test_a_line_that_is_wrong_is_named_with_its_place(audio, tmp_path, capfd, line):
    record(audio / "c.wav", 1.0)
    (audio / "copy.wav").write_bytes((audio / "a0.wav").read_bytes())
    (audio / "broken.wav").write_bytes(b"RIFF")
    rows = PLAIN[11:].replace("\n", ",train,,,,,\n").replace(",,,,,\n", ",,,first,,\n", 1)
    table = write(tmp_path / "t.csv", f"{HEADER}{rows}\n{line}\n".encode(errors="surrogateescape"))
    info, clips = read(table, audio)
    (reason,) = left_out(info)
    expected = WRONG[line].format(audio=audio, table=table)
    assert reason.startswith(f"{table}:15: ") and expected in reason, reason
    assert len(clips) == 12 and f"left out: {reason}\n" in capfd.readouterr().err
    with pytest.raises(TkdError, match=r"t\.csv: 1 of 13 recordings and lines cannot be used \(listed above\)"):
        read(table, audio, strict=True)


def test_a_line_after_one_of_several_lines_has_its_own_number(audio, tmp_path):
    table = write(tmp_path / "t.csv", PLAIN + '"c\nd.wav",a\nnone.wav,a\n')
    assert [reason.partition(": ")[0] for reason in left_out(read(table, audio)[0])] == [f"{table}:14", f"{table}:16"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", "cannot be read as JSON (no object)"),
        ('{"path": "a0.wav"', "cannot be read as JSON"),
        ('{"path": "c.wav", "label": ["a", "b"]}', "the label is a list. Call the column labels"),
        ('{"path": ["c.wav"], "label": "a"}', "the path is a list"),
        ('{"path": "c\\udc80.wav", "label": "a"}', "not UTF-8"),
        ("[" * 9999, "cannot be read as JSON"),
    ],
)
def test_a_json_line_that_is_wrong_is_named_with_its_place(audio, tmp_path, line, message):
    lines = [json.dumps({"path": f"{x}{i}.wav", "label": x}) for x in "ab" for i in range(6)]
    (reason,) = left_out(read(write(tmp_path / "t.jsonl", "\n".join([*lines, line])), audio)[0])
    assert reason.startswith(f"{tmp_path}/t.jsonl:13: ") and message in reason


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"t\.csv: cannot be read \(No such file or directory\)"),
        ("", r"t\.csv: has no column path or file_name; its columns are none"),
        ("pfad,label\na0.wav,a\n", "has no column path or file_name; its columns are pfad, label"),
        ("path,lable\na0.wav,a\n", "has no column label or labels; its columns are path, lable"),
        ("path,label,labels\na0.wav,a,a\n", "has the columns label and labels. Keep one of them"),
        ("path,label,path\na0.wav,a,a\n", r"t\.csv:1: the column 'path' stands twice"),
        ("path,label\n", r"t\.csv: none of its 0 lines can be used"),
        (
            "path,label\nnone.wav,a\n",
            r"none of its 1 lines can be used. The first: .*t\.csv:2: .*none.wav: no such file",
        ),
        ('path,label\na0.wav,"a\na1.wav,a\n', r"t\.csv:2: cannot be read as CSV .*Mend the quotes"),
        ('path,labels\na0.wav,"x,y"\n', r"t\.csv:2: labels with ',' between them\? Separate them with ';'"),
        ("path,labels\na0.wav,x\na1.wav,x|y\n", r"t\.csv:3: labels with '\|' between them"),
        (PLAIN.encode("utf-16"), r"t\.csv: is UTF-16. Save it as UTF-8"),
        (b"RIFF\0\0\0\0WAVEfmt ", r"t\.csv: has no column path"),
        ("path,label\na0.wav,a\na1.wav,a\na2.wav,a\n", "usable recordings of 1 labels; a classifier needs two or more"),
    ],
)
def test_a_table_that_is_wrong_as_a_whole_says_so(audio, tmp_path, content, message):
    if content is not None:
        write(tmp_path / "t.csv", content)
    with pytest.raises(TkdError, match=message):
        read(tmp_path / "t.csv", audio)


def test_another_table_or_other_recordings_are_noticed(audio, tmp_path):
    def recipe(text):
        return list_csv(write(tmp_path / "t.csv", text), audio).recipe(RecordingsConfig())

    first = recipe(PLAIN)
    assert recipe(PLAIN) == first != recipe(PLAIN + "\n")
    record(audio / "a0.wav", 2.0)
    assert recipe(PLAIN) != first and str(tmp_path) not in json.dumps(first)
