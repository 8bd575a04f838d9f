"""`audiofolder`: your own recordings in the layout that Hugging Face `datasets` calls AudioFolder.

    recordings/                     recordings/                      recordings/
        train/                          train/                           metadata.csv
            lamp/    a.wav ...              metadata.csv                 data/  a.wav ...
            lights/  b.wav ...              a.wav ...
        test/                           test/
            lamp/    c.wav ...              metadata.csv ...

A folder whose name is or holds the name of a split (`train`, `test-clean`) puts what is below it into that split; of
several the outermost. With a metadata.csv or metadata.jsonl anywhere, clips are what these tables list (`file_name`
relative to the table, `label` or `labels`, and the other columns of `pipeline.data.own.table`). Else the folder a
recording lies in is its label, and must lie directly below that of the split, or below the root if there are no splits.

Not as there: `Train` is a split, too, a clip in the folders of two splits is in one, split names in file names are not
read, nor are metadata in Parquet and recordings in archives.
"""

import hashlib
import re
from dataclasses import replace
from pathlib import Path

from pipeline.data.own.listing import Listing, Row, speaker_of
from pipeline.data.own.table import SPLIT_NAMES, read_table
from pipeline.data.recordings import LeftOut, files_below, unreadable_name
from pipeline.errors import TkdError
from pipeline.progress import say

_TABLES = ("metadata.csv", "metadata.jsonl")
_NOT_LISTED = (*_TABLES, "metadata.parquet", "README.md", "config.json", "dataset_info.json", "dataset_infos.json")
# A name of a split between the marks that datasets knows, or alone.
_SPLIT_FOLDER = re.compile(rf"(?:.*[-._ 0-9])?({'|'.join(SPLIT_NAMES)})(?:[-._ 0-9].*)?", re.IGNORECASE)


def list_audiofolder(folder: Path | str) -> Listing:
    """Returns what the metadata tables in `folder` list, or without any the recordings in the folders of the labels.

    Raises:
        TkdError: no such folder, nothing in it in that layout, or a table cannot be read.
    """
    root = Path(folder).resolve()
    if not root.is_dir():
        raise TkdError(f"{folder}: no such folder. Give --root a folder laid out as for datasets' AudioFolder.")
    files = [path for path in files_below(root) if not _hidden(path.relative_to(root))]
    tables = [path for path in files if path.name in _TABLES]
    files = [path for path in files if path.name not in _NOT_LISTED]
    listing = _from_tables(root, tables, files) if tables else _from_folders(root, files)
    if not listing.rows:
        more = f" The first fault: {listing.left_out[0].reason}" if listing.left_out else ""
        raise TkdError(
            f"{folder}: no recordings found. Expected SPLIT/LABEL/FILE, as in train/lamp/a.wav, or a metadata.csv "
            f"with the columns file_name and label.{more}"
        )
    return listing


def _from_tables(root: Path, tables: list[Path], files: list[Path]) -> Listing:
    found = [read_table(path, path.parent) for path in tables]
    if len({table.multi_label for table in found}) > 1:
        raise TkdError(f"{root}: some tables have the column label, others labels. Call it the same in all of them.")
    rows, left_out = [], [each for table in found for each in table.left_out]
    for row in (row for table in found for row in table.rows):
        if row.path.is_relative_to(root):
            split, _ = _split(row.path.relative_to(root).parent)
            rows.append(replace(row, split=split or row.split))
        else:
            left_out.append(LeftOut(row.path.name, f"{row.place}: {row.path} lies outside of {root}. Move it there."))
    if n_more := len(set(files) - {row.path for row in rows}):
        say(f"{root}: {n_more} other files are in none of the tables, and not used")
    digest = hashlib.sha256("".join(table.sha256 for table in found).encode()).hexdigest()
    task = "multi_label" if found[0].multi_label else "single_label"
    return Listing("audiofolder", root.name, str(root), root, task, rows, left_out, digest)


def _from_folders(root: Path, files: list[Path]) -> Listing:
    splits = {path: _split(path.relative_to(root).parent) for path in files}
    any_split = any(split for split, _ in splits.values())
    rows, left_out = [], []
    for path, (split, below) in splits.items():
        if not path.is_file():
            fault = f"{path}: not a file. Remove it."
        elif unreadable_name(path):
            fault = f"{path}: its name is not UTF-8. Rename or remove it."
        elif any_split and split is None:
            fault = f"{path}: in the folder of no split, while others are. Move or remove it."
        elif len(below) != 1:
            expected = "SPLIT/LABEL/FILE" if any_split else "LABEL/FILE"
            fault = f"{path}: not directly in the folder of a label, expected {expected}. Move or remove it."
        else:
            rows.append(Row(path, below, split=split, speaker=speaker_of(path)))
            continue
        left_out.append(LeftOut(str(path.relative_to(root)), fault))
    return Listing("audiofolder", root.name, str(root), root, "single_label", rows, left_out)


def _split(path: Path) -> tuple[str | None, tuple[str, ...]]:
    """Returns the split that a folder of the path names, the outermost, and the folders below it; else None and all."""
    for depth, name in enumerate(path.parts):
        if found := _SPLIT_FOLDER.fullmatch(name):
            return SPLIT_NAMES[found[1].lower()], path.parts[depth + 1 :]
    return None, path.parts


def _hidden(path: Path) -> bool:
    return path.name.startswith(".") or any(part.startswith((".", "__")) for part in path.parent.parts)
