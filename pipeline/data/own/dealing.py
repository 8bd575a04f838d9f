"""Which clip is in train, validation and test: as it is listed, and where nothing is listed, dealt."""

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass

from pipeline.data.clip import SPLITS
from pipeline.errors import TkdError
from pipeline.progress import say

_HELDOUT = 0.1  # of the recordings, each for validation and test


@dataclass(frozen=True)
class Dealt:
    """What dealing asks of a clip: the recording it is of, who speaks, and where it is already."""

    recording: str
    speaker: str | None
    labels: tuple[str, ...]
    split: str | None = None


def deal(clips: list[Dealt], place: object, every_label: bool, seed: int) -> list[str]:
    """Returns the split of each clip, train, validation or test.

    Clips that have one keep it. If none has, all are dealt; if only validation or test is missing, it is dealt from
    train. All clips of a recording, and all recordings of a speaker, go to the same split. A tenth of the speakers goes
    to each split dealt to; recordings of no known speaker are dealt label by label (those of several labels by the
    rarest of them), a tenth each and one at least. Who goes where follows from a hash of the names and the seed.

    Args:
        clips: The clips; either all have a split or none.
        place: The folder or table they come from, for errors.
        every_label: Whether every label must be in every split dealt to; else one of too few recordings is in train.
        seed: Another one deals anew.

    Raises:
        TkdError: nothing is in train, a speaker is in two splits, too few speakers where all recordings are of known
            ones, too few recordings of a label (`every_label`), or none of a label to train on.
    """
    given = {clip.split for clip in clips} - {None}
    heldout = tuple(split for split in SPLITS[1:] if split not in given)
    splits = [clip.split or "train" for clip in clips]
    if given:
        if "train" not in given:
            raise TkdError(f"{place}: nothing is in the split train. Add some, or leave the splits out.")
        _check_speakers(clips, place)
        for split in heldout:
            say(f"{place}: no {split} is given: a tenth of train is dealt to it")
    if heldout:
        at = [index for index, split in enumerate(splits) if split == "train"]
        dealt = _deal([clips[index] for index in at], heldout, place, every_label, seed)
        for index, split in zip(at, dealt, strict=True):
            splits[index] = split
    trained = {label for clip, split in zip(clips, splits, strict=True) if split == "train" for label in clip.labels}
    for label in sorted({label for clip in clips for label in clip.labels} - trained):
        raise TkdError(
            f"{place}: no recording of {label} is left to train on; a speaker's recordings stay together. "
            "Add speakers, or give another --seed."
            if heldout
            else f"{place}: no recording of {label} is in the split train. Add some, or remove the label."
        )
    for split in heldout:
        there = {label for clip, where in zip(clips, splits, strict=True) if where == split for label in clip.labels}
        if lacking := sorted(trained - there) if any(clip.speaker for clip in clips) else []:
            named = ", ".join(lacking)
            fault = f"{place}: no recording of {named} is in {split}; a speaker's recordings stay together."
            if every_label:
                raise TkdError(f"{fault} Add speakers, or give another --seed.")
            say(fault)
    return splits


def _check_speakers(clips: list[Dealt], place: object) -> None:
    seen: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        if clip.speaker is not None:
            seen[clip.speaker].add(clip.split)
    if shared := sorted(speaker for speaker, where in seen.items() if len(where) > 1):
        where = " and ".join(split for split in SPLITS if split in seen[shared[0]])
        raise TkdError(
            f"{place}: speaker {shared[0]} is in {where} ({len(shared)} of {len(seen)} speakers are in several). "
            "Leave the splits out to have them dealt by speaker, or the speakers to keep the splits."
        )


def _deal(clips: list[Dealt], heldout: tuple[str, ...], place: object, every_label: bool, seed: int) -> list[str]:
    groups = _groups(clips)
    splits = ["train"] * len(clips)
    strata = _strata(clips, groups)
    for what, members in strata.items():
        if len(members) <= len(heldout):
            if what == "speakers" and len(strata) > 1:
                say(f"{place}: {len(members)} of known speakers, too few to deal: all in train")
            elif every_label or what == "speakers":
                needed = [split for split in SPLITS if split == "train" or split in heldout]
                needed = f"{', '.join(needed[:-1])} and {needed[-1]}"
                raise TkdError(f"{place}: {len(members)} {what}; {needed} need one each. Add some.")
            continue
        ranked = sorted(members, key=lambda group: hashlib.sha256(f"{seed}/{group[1]}".encode()).digest())
        n_heldout = max(1, round(_HELDOUT * len(ranked)))
        for rank, group in enumerate(ranked[: n_heldout * len(heldout)]):
            for index in groups[group]:
                splits[index] = heldout[rank // n_heldout]
    return splits


_Group = tuple[str, str]  # "speaker" or "recording", and a name


def _groups(clips: list[Dealt]) -> dict[_Group, list[int]]:
    """Returns which clips stay together, by a speaker of theirs, else by their recording."""
    above: dict[_Group, _Group] = {}

    def top(member: _Group) -> _Group:
        while (next_above := above.setdefault(member, member)) != member:
            above[member] = above[next_above]
            member = next_above
        return member

    for clip in clips:
        if clip.speaker is not None:
            above[top(("recording", clip.recording))] = top(("speaker", clip.speaker))
    members: dict[_Group, list[int]] = defaultdict(list)
    for index, clip in enumerate(clips):
        members[top(("recording", clip.recording))].append(index)
    return {_name([clips[index] for index in indices]): indices for indices in members.values()}


def _name(clips: list[Dealt]) -> _Group:
    speakers = [clip.speaker for clip in clips if clip.speaker is not None]
    return ("speaker", min(speakers)) if speakers else ("recording", clips[0].recording)


def _strata(clips: list[Dealt], groups: dict[_Group, list[int]]) -> dict[str, list[_Group]]:
    """Returns the groups dealt together: all speakers; the recordings of nobody known by their rarest label."""
    labels = {
        group: {label for index in indices for label in clips[index].labels}
        for group, indices in groups.items()
        if group[0] == "recording"
    }
    n_groups = Counter(label for of_group in labels.values() for label in of_group)
    strata: dict[str, list[_Group]] = defaultdict(list)
    for group in groups:
        if group in labels:
            rarest = min(labels[group], key=lambda label: (n_groups[label], label))
            strata[f"recordings of {rarest}"].append(group)
        else:
            strata["speakers"].append(group)
    return strata
