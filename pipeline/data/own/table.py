"""`csv`: your own recordings as a table lists them, CSV or one JSON object a line.

What is wrong in a line is named with file and line.

| column | |
|---|---|
| path, or file_name | the recording; relative to a folder, or absolute |
| label | its label: every clip has one |
| labels | or its labels, separated by `;` (in JSON also a list): a clip may have several |
| split | train, validation or test; `SPLIT_NAMES` has the synonyms |
| start, end | the part of the recording, in seconds |
| event_start, event_end | where in the recording the event is, in seconds |
| speaker, clip_id | names |

A path and a label are needed, the rest is optional. Other columns are named and not used.
"""

import csv
import hashlib
import io
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.own.listing import Listing, Row, speaker_of
from pipeline.data.recordings import LeftOut, unreadable_name
from pipeline.errors import TkdError, nearest
from pipeline.progress import say

SPLIT_NAMES = {  # as Hugging Face datasets reads them: dev is a validation split, eval a test split
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
_NAMES, _LABELS = ("path", "file_name"), ("label", "labels")
_COLUMNS = (*_NAMES, *_LABELS, "split", "start", "end", "event_start", "event_end", "speaker", "clip_id")
_SEVERAL = ";"  # between labels; not a comma, which is part of many names: "Bark, howl"


def list_csv(path: Path | str, audio: Path | str | None = None) -> Listing:
    """Returns what the table at `path` lists; the recordings' names are relative to the folder that holds them all.

    Args:
        path: The table, .csv or .jsonl.
        audio: The folder that its paths are relative to; None: the table's own.

    Raises:
        TkdError: the table cannot be read, or none of its lines.
    """
    path = Path(path)
    folder = Path(path.parent if audio is None else audio).resolve()
    if not folder.is_dir():
        raise TkdError(f"{folder}: no such folder. Give --audio the folder that the paths in {path} are relative to.")
    table = read_table(path, folder)
    if not table.rows:
        more = f" The first: {table.left_out[0].reason}" if table.left_out else ""
        raise TkdError(f"{path}: none of its {len(table.left_out)} lines can be used.{more}")
    if not all(row.path.is_relative_to(folder) for row in table.rows):
        folder = Path(os.path.commonpath([row.path.parent for row in table.rows]))
    name = path.stem if path.stem != "metadata" else path.resolve().parent.name
    task = "multi_label" if table.multi_label else "single_label"
    return Listing("csv", name, str(path), folder, task, table.rows, table.left_out, table.sha256)


@dataclass(frozen=True)
class Table:
    """What a table lists."""

    multi_label: bool  # whether the column is called labels
    rows: list[Row]
    left_out: list[LeftOut]  # lines that cannot be used
    sha256: str  # of the file


def read_table(path: Path, folder: Path) -> Table:
    """Returns the rows of a .csv or .jsonl table; lines that are wrong are listed with the reason.

    CSV is comma-separated, or by the semicolons or tabs its first line has instead, in UTF-8 with or without a byte
    order mark, with line ends of any system.

    Args:
        path: The table.
        folder: What its paths are relative to.

    Raises:
        TkdError: the table as a whole cannot be read: missing, of another encoding, without a needed column.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TkdError(f"{path}: cannot be read ({error.strerror}). Give a table, .csv or .jsonl.") from error
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise TkdError(f"{path}: is UTF-16. Save it as UTF-8.")
    text = content.decode("utf-8-sig", errors="surrogateescape")
    columns, lines = _json_lines(text) if path.suffix.lower() == ".jsonl" else _csv_lines(path, text)
    name, label = _one_of(path, columns, _NAMES), _one_of(path, columns, _LABELS)
    if unused := [column for column in columns if column not in _COLUMNS]:
        say(f"{path}: columns not used: {', '.join(unused)}")
    multi_label = label == "labels"
    if multi_label:
        _check_separator(path, lines)
    rows, left_out, ids = [], [], {}
    for number, values in lines:
        place = f"{path}:{number}"
        try:
            row = _row(values, folder, place, name, label)
            if row.clip_id is not None and (first := ids.setdefault(row.clip_id, place)) != place:
                raise TkdError(f"the clip_id {row.clip_id} is that of {first}, too. Give it another.")
            rows.append(row)
        except TkdError as error:
            left_out.append(LeftOut(f"{path.name}:{number}", f"{place}: {error}"))
    return Table(multi_label, rows, left_out, hashlib.sha256(content).hexdigest())


_Lines = list[tuple[int, dict | TkdError]]  # number of the line; its values by column, or what is wrong


def _csv_lines(path: Path, text: str) -> tuple[list[str], _Lines]:
    first = text.partition("\n")[0]
    delimiter = next((mark for mark in ",;\t" if mark in first), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns, lines, number = [], [], 1
    try:
        for fields in reader:
            if not columns:
                columns = [field.strip().lower() for field in fields]
            elif len(fields) == len(columns):
                lines.append((number, {name: text.strip() for name, text in zip(columns, fields, strict=True)}))
            elif fields:  # else a blank line
                fault = f"{len(fields)} values, the first line has {len(columns)} columns. Mend the line."
                lines.append((number, TkdError(fault)))
            number = reader.line_num + 1
    except csv.Error as error:
        raise TkdError(f"{path}:{number}: cannot be read as CSV ({error}). Mend the quotes.") from error
    if doubled := sorted({name for name in columns if columns.count(name) > 1}):
        raise TkdError(f"{path}:1: the column {doubled[0]!r} stands twice. Rename one.")
    return columns, lines


def _json_lines(text: str) -> tuple[list[str], _Lines]:
    lines: _Lines = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                found = json.loads(line)
                if not isinstance(found, dict):
                    raise ValueError("no object")
                lines.append((number, {name: _plain(value) for name, value in found.items()}))
            except (ValueError, RecursionError) as error:
                lines.append((number, TkdError(f"cannot be read as JSON ({error}). Mend the line.")))
    columns = dict.fromkeys(name for _, values in lines if isinstance(values, dict) for name in values)
    return list(columns), lines


def _plain(value: object) -> str | list[str]:
    if isinstance(value, list):
        return [str(each).strip() for each in value]
    return "" if value is None else str(value).strip()


def _one_of(path: Path, columns: list[str], names: tuple[str, ...]) -> str:
    found = [name for name in names if name in columns]
    if len(found) == 1:
        return found[0]
    if found:
        raise TkdError(f"{path}: has the columns {' and '.join(found)}. Keep one of them.")
    listed = ", ".join(columns) or "none"
    raise TkdError(
        f"{path}: has no column {' or '.join(names)}; its columns are {listed}. Name them in the first line."
    )


def _check_separator(path: Path, lines: _Lines) -> None:
    """Labels separated by another mark would be taken for one label with a long name."""
    texts = [(number, values.get("labels", "")) for number, values in lines if isinstance(values, dict)]
    for other in ",|":
        joined = [number for number, text in texts if isinstance(text, str) and other in text]
        if joined and not any(isinstance(text, list) or _SEVERAL in text for _, text in texts):
            raise TkdError(
                f"{path}:{joined[0]}: labels with {other!r} between them? Separate them with {_SEVERAL!r}. (If every "
                "clip has one label, and that is its name: call the column label.)"
            )


def _row(values: dict | TkdError, folder: Path, place: str, name: str, label: str) -> Row:
    if isinstance(values, TkdError):
        raise values
    labels = _labels(values.get(label, ""), label)
    cells = {column: values.get(column, "") for column in _COLUMNS if column not in _LABELS}
    for column, text in cells.items():
        if isinstance(text, list):
            raise TkdError(f"the {column} is a list. Give one.")
    if unreadable_name("".join([*cells.values(), *labels])):
        raise TkdError("not UTF-8. Save the table as UTF-8.")
    if not cells[name]:
        raise TkdError(f"no {name}. Name the recording.")
    path = Path(os.path.abspath(folder / cells[name]))
    if not os.path.isfile(path):
        raise TkdError(f"{path}: no such file. Mend the path or remove the line.")
    split = SPLIT_NAMES.get(cells["split"].lower())
    if split is None and cells["split"]:
        raise TkdError(f"no such split: {cells['split']}. {nearest(cells['split'], SPLIT_NAMES)}")
    start, end = _seconds(cells, "start"), _seconds(cells, "end")
    if end is not None and end <= (start or 0):
        raise TkdError(f"ends at {end:g} s, starts at {start or 0:g} s. Mend or remove the line.")
    event = _seconds(cells, "event_start"), _seconds(cells, "event_end")
    if event.count(None) == 1 or (None not in event and event[0] >= event[1]):
        raise TkdError(f"an event from {cells['event_start'] or '?'} to {cells['event_end'] or '?'} s. Mend the line.")
    return Row(
        path=path,
        labels=labels,
        split=split,
        speaker=cells["speaker"] or speaker_of(path),
        start=start or 0.0,
        end=end,
        event=None if None in event else event,
        clip_id=cells["clip_id"] or None,
        place=place,
    )


def _labels(given: str | list[str], column: str) -> tuple[str, ...]:
    if column == "labels":
        labels = given if isinstance(given, list) else [text.strip() for text in given.split(_SEVERAL)]
    elif isinstance(given, list):
        raise TkdError("the label is a list. Call the column labels.")
    else:
        labels = [given]
    if not labels or not all(labels):
        raise TkdError(f"an empty label. Fill in {column} or remove the line.")
    return tuple(dict.fromkeys(labels))


def _seconds(cells: dict[str, str], column: str) -> float | None:
    text = cells[column]
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise TkdError(f"{column} is {text!r}, expected seconds as in 1.5. Mend or remove the line.")
    return seconds
