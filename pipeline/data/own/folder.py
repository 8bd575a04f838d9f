"""`folder`: your own recordings, one folder per label.

    recordings/
        lamp/     a.wav b.flac ...
        lights/   ...

Any format libsndfile reads, any rate, any number of channels. 80 / 10 / 10 % for training, validation and test: of the
speakers, where recordings are named as in Speech Commands (`SPEAKER_nohash_0.wav`), of each label's recordings where
they are not.
"""

from pathlib import Path

from pipeline.data.own.listing import Listing, Row, speaker_of
from pipeline.data.recordings import LeftOut, unreadable_name
from pipeline.errors import TkdError


def list_folder(folder: Path | str) -> Listing:
    """Returns everything in the folders of the labels in `folder` that is not hidden, audio or not.

    Raises:
        TkdError: no such folder, or no recordings in it.
    """
    root = Path(folder).resolve()
    if not root.is_dir():
        raise TkdError(f"{folder}: no such folder. Give --root a folder with one folder of recordings per label.")
    files = sorted(root.glob("[!.]*/[!.]*"))
    if not any(path.is_file() for path in files):
        raise TkdError(
            f"{folder}: no recordings found. Expected LABEL/FILE, as in lamp/a.wav and lights/b.flac. "
            "(SPLIT/LABEL/FILE is the layout of audiofolder.)"
        )
    rows, left_out = [], []
    for path in files:
        if not path.is_file():
            fault = f"{path}: not a file. Recordings lie directly in the folder of their label."
        elif unreadable_name(path):
            fault = f"{path}: its name is not UTF-8. Rename or remove it."
        else:
            rows.append(Row(path, (path.parent.name,), speaker=speaker_of(path)))
            continue
        left_out.append(LeftOut(str(path.relative_to(root)), fault))
    return Listing("folder", root.name, str(folder), root, "single_label", rows, left_out)
