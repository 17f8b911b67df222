"""Examines a folder and proposes a description of it, with guesses marked."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from pass2d.cache.layout import DATASET
from pass2d.cache.statistics import SPLITS
from pass2d.common.errors import Pass2DError
from pass2d.common.plain import from_plain
from pass2d.pipeline.datasets.described.description import PointsPart, description_of
from pass2d.pipeline.datasets.described.listing import in_order
from pass2d.pipeline.datasets.layout import Wanted
from pass2d.pipeline.datasets.proposal.labels import find_labels, sizes_beside
from pass2d.pipeline.datasets.proposal.notes import Notes, text_of
from pass2d.pipeline.datasets.proposal.points import (
    find_points,
    place_of,
    read_cloud,
    sensor_lines,
    signal_line,
    volume_lines,
)
from pass2d.pipeline.datasets.proposal.surroundings import camera_lines, pose_lines, split_lines
from pass2d.pipeline.datasets.proposal.tree import MOST_FILES, read_tree, unnamed_words
from pass2d.pipeline.datasets.registry import described

_HEADING = """\
# A proposal based on the files. Lines with "# ?" are guesses: check them first.
# What every key means: docs/your_data.md.
"""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A description with notes."""

    text: str
    """TOML; guesses are marked."""
    found: tuple[str, ...]
    """What the files show."""
    guessed: tuple[str, ...]
    """What the user should check."""
    unknown: tuple[str, ...]
    """What the files do not show, and what was assumed instead."""


def propose(root: Path) -> Proposal:
    """Propose a description.

    Args:
        root: a folder of scans.

    Raises:
        DataError: no such folder, no point files in it, or no columns that can be x, y, z.
    """
    root = root.absolute()
    notes = Notes()
    tree = read_tree(root)
    if tree.is_cut:
        notes.unknown.append(f"files: only the first {MOST_FILES:,} were examined")
    notes.unknown += [f"files: {folder}" for folder in tree.closed]
    if tree.unnamed:
        notes.unknown.append(f"files: {unnamed_words(tree)} left out")
    files = find_points(tree, notes)
    cloud = read_cloud(root, files, sizes_beside(tree, files.looked_at), notes)
    place = place_of(cloud, notes)
    points = [
        f"files = {text_of(files.pattern)}",
        *cloud.lines,
        *place.lines,
        signal_line(cloud, notes),
    ]
    labels = find_labels(tree, files, cloud, notes)
    listed = in_order(files.matches)
    scans = [one.named for one in listed]
    labelled = {one.named.sequence for one in listed if labels.has(tree, one.match)}
    splits = split_lines(tree, scans, labelled=labelled, notes=notes)
    part = from_plain(PointsPart, tomllib.loads("\n".join(points)), where="[points]")
    cameras = camera_lines(tree, files.looked_at, part, notes)
    has_camera = bool(cameras) and cameras[0] == "[[camera]]"
    poses = pose_lines(tree, scans, files.matches, has_camera=has_camera, notes=notes)
    lines = [
        _HEADING,
        "[dataset]",
        f"name = {text_of(_name(root))}",
        "",
        "[points]",
        *points,
        "",
        *labels.lines,
        *splits,
        *volume_lines(place.xyz, notes),
        *sensor_lines(cloud, place.xyz, notes),
        *cameras,
        *poses,
    ]
    text = "\n".join(lines).rstrip() + "\n"
    _try(root, text, notes)
    return Proposal(
        text=text,
        found=tuple(notes.found),
        guessed=tuple(notes.guessed),
        unknown=tuple(notes.unknown),
    )


def _name(root: Path) -> str:
    """The folder's name, as a data set may be called."""
    name = re.sub("[^A-Za-z0-9_-]+", "-", root.resolve().name).strip("-")[:60]
    return name if DATASET.fullmatch(name) else "mine"


def _try(root: Path, text: str, notes: Notes) -> None:
    """List the folder by the proposal, to report at once what it lacks."""
    try:
        description = description_of(tomllib.loads(text), where="the proposal")
        splits = [split for split in SPLITS if getattr(description.splits, split) is not None]
        listing = described(description).list_scans(root, Wanted(splits=splits))
    except Pass2DError as error:
        notes.unknown.append(f"it cannot be prepared as it is: {error}")
        return
    counts: dict[str, int] = {}
    for scan in listing.scans:
        counts[scan.split] = counts.get(scan.split, 0) + 1
    notes.found.append(f"scans: {', '.join(f'{n:,} {split}' for split, n in counts.items())}")
    notes.unknown += [f"missing: {note}" for note in listing.notes]
