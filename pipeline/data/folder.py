"""`folder`: your own recordings, one folder per label.

    recordings/
        lamp/     a.wav b.flac ...
        lights/   ...

Any format libsndfile reads, any rate, any number of channels. 80 / 10 / 10 % for training, validation and test: of the
speakers, where recordings are named as in Speech Commands (`SPEAKER_nohash_0.wav`), of each label's recordings where
they are not.
"""

from dataclasses import dataclass
from pathlib import Path

from pipeline.data.listing import Listing, RecordingsConfig, Row, read_listing, speaker_of, unreadable_name
from pipeline.data.manifest import Clip, DatasetInfo
from pipeline.data.recordings import LeftOut
from pipeline.errors import TkdError


@dataclass(frozen=True)
class FolderConfig(RecordingsConfig):
    """`root`: the folder that holds one folder per label."""

    def recipe(self) -> dict:
        """Returns what `dataset.json` says of how the clips were made; other recordings in `root` make it another.

        Raises:
            TkdError: no such folder, or no recordings in it.
        """
        return list_folder(self).recipe(self)


def read_folder(config: FolderConfig) -> tuple[DatasetInfo, list[Clip]]:
    """Returns the dataset in the folder `config.root`, as `read_listing` does.

    Raises:
        TkdError: no such folder, no recordings in it, too few to split, or (strict) one that cannot be used.
    """
    return read_listing(list_folder(config), config)


def list_folder(config: FolderConfig) -> Listing:
    """Returns everything in the folders of the labels that is not hidden, audio or not.

    Raises:
        TkdError: no such folder, or no recordings in it.
    """
    root = Path(config.root).resolve()
    if not root.is_dir():
        raise TkdError(f"{config.root}: no such folder. Give --root a folder with one folder of recordings per label.")
    files = sorted(root.glob("[!.]*/[!.]*"))
    if not any(path.is_file() for path in files):
        raise TkdError(
            f"{config.root}: no recordings found. Expected LABEL/FILE, as in lamp/a.wav and lights/b.flac. "
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
    return Listing("folder", root.name, root, "single_label", rows, left_out)
