"""What a nuScenes set lacks: one line per fact, or file by file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pass2d.pipeline.problem import Problem

POINTS, LABELS, SWEEPS = "point file", "labels", "past sweeps"
INSTANCES = "panoptic labels"
_NO_CAMERA = (POINTS, LABELS, INSTANCES, SWEEPS)
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Missing:
    """Files of key frames that are not there, by role: points, labels, or a camera's name."""

    folders: dict[str, Path]
    """Where the files of each role should be."""
    files: dict[str, list[tuple[str, Path | None]]] = field(default_factory=dict)
    """Scene and file by role; None where the tables name no file for a key frame."""
    totals: dict[str, int] = field(default_factory=dict)
    """Files that were looked for, by role."""

    def count(self, role: str) -> None:
        """One more was looked for."""
        self.totals[role] = self.totals.get(role, 0) + 1

    def add(self, role: str, scene: str, file: Path | None) -> None:
        """One was not found."""
        self.files.setdefault(role, []).append((scene, file))

    def is_all(self, role: str) -> bool:
        """Whether not one of them was found."""
        return len(self.files.get(role, ())) == self.totals.get(role, 0)

    def notes(self) -> list[str]:
        """What is missing, one line per fact; cameras that lack the same share a line."""
        lines = []
        if POINTS in self.files:
            names = [file.name for _, file in self.files[POINTS] if file is not None]
            first = f", first {names[0]}" if names else ""
            lines.append(f"left out without {POINTS}: {self._extent(POINTS)}{first}")
        lines += [
            f"no {role} ({self._folder(role)})"
            if self.is_all(role)
            else f"scans without {role}: {self._extent(role)}"
            for role in (LABELS, INSTANCES)
            if role in self.files
        ]
        if SWEEPS in self.files:
            lines.append(f"past sweeps that are not there: {self._extent(SWEEPS)}")
        cameras: dict[str, list[str]] = {}
        for role in self.files:
            if role not in _NO_CAMERA:
                extent = "no pictures" if self.is_all(role) else self._extent(role)
                cameras.setdefault(extent, []).append(role)
        for extent, names in cameras.items():
            who = "all cameras" if len(names) == self._n_cameras() else ", ".join(names)
            text = extent if extent == "no pictures" else f"scans without picture: {extent}"
            lines.append(f"{who}: {text}")
        return lines

    def problems(self) -> list[Problem]:
        """Every missing file, or the folder where none is there; all of it is legal."""
        problems = []
        for role, files in self.files.items():
            if self.is_all(role) and role != POINTS:
                problems.append(_note(self._folder(role), "no files", _USE.get(role, _PICTURES)))
                continue
            remedy = "The scan is left out" if role == POINTS else "The scan is prepared without it"
            word = _WORD.get(role, "picture")
            for scene, file in files:
                found = "nothing" if file else f"no row in the tables for a key frame of {scene}"
                place = file or self.folders[role]
                problems.append(_note(place, found, f"the {word} of a key frame", remedy))
        return problems

    def _folder(self, role: str) -> Path:
        """Where the tables say that the files of a role are."""
        named = (file.parent for _, file in self.files[role] if file is not None)
        return next(named, self.folders[role])

    def _n_cameras(self) -> int:
        return len(self.folders.keys() - {*_NO_CAMERA})

    def _extent(self, role: str) -> str:
        scenes = sorted({scene for scene, _ in self.files[role]})
        more = f" and {len(scenes) - _SHOWN} more scenes" if len(scenes) > _SHOWN else ""
        where = ", ".join(scenes[:_SHOWN]) + more
        return f"{len(self.files[role])} of {self.totals[role]} ({where})"


_WORD = {
    POINTS: "points",
    LABELS: "labels",
    INSTANCES: "instance ids",
    SWEEPS: "points of a past sweep",
}
_USE = {
    LABELS: "labels, for training and evaluation",
    INSTANCES: "instance ids, for mixes that paste objects",
    SWEEPS: "past sweeps, for `sweeps`",
}
_PICTURES = "pictures, for training with the 2D branch"


def _note(
    file: Path, found: str, expected: str, remedy: str = "Prepare works without them"
) -> Problem:
    return Problem(
        file=file,
        found=found,
        expected=expected,
        remedy=f"{remedy}. Download it if it should be there.",
        severity="note",
    )
