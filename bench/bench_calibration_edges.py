"""How reliably a calibration is told from turned ones by the edges of scans and pictures.

    python -m bench.bench_calibration_edges [ROOT ...]

ROOT: folders of SemanticKITTI's layout or of nuScenes' (if none, a sample). Of every picture the
calibration is judged as it is, turned by 1, 2, 3 and 5 degrees to each side about each axis of the
camera, of a picture in the dark, and of a picture of another scan; single, and together with the
others of its sequence and camera.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.sample_root import sample_root
from pass2d.cache.clouds.nowhere import is_measured
from pass2d.pipeline.compose import pictures_at_hand
from pass2d.pipeline.datasets.raw_scans import list_raw
from pass2d.pipeline.stages.camera_sense import Pinhole, pinhole
from pass2d.pipeline.stages.edge_match import clear_turn, edge_heights, match_edges, range_jumps
from pass2d.pipeline.stages.read import read_point_file

TURNS_DEG = (1.0, 2.0, 3.0, 5.0)
AXES = {"pitch": 0, "yaw": 1, "roll": 2}
"""Of the camera: right, down, ahead."""
DARK = 0.03
"""Brightness that is left of a picture, beside noise."""
MOST_OTHERS = 5


class View(NamedTuple):
    """A picture and its scan."""

    group: tuple[str, str, int]
    """Folder, sequence, camera."""
    xyz: NDArray[np.float32]
    is_jump: NDArray[np.bool_]
    camera: Pinhole
    image: NDArray[np.uint8]

    def scores(self, *, camera: Pinhole, image: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """Of the copies of a calibration."""
        return match_edges(self.xyz, self.is_jump, camera=camera, image=image)


def views(roots: Sequence[Path]) -> Iterator[View]:
    """All pictures below some folders."""
    for root in roots:
        raw = list_raw(root)
        for scan in raw.scans if raw is not None else ():
            points = read_point_file(scan.points, raw.info, scan_id=scan.scan_id)[:, :3].T
            xyz = np.ascontiguousarray(points[:, is_measured(points)])
            is_jump = range_jumps(xyz)
            for place, image in enumerate(pictures_at_hand(scan, raw.info)):
                if image is None or scan.image_from_lidar is None:
                    continue
                matrix = np.array(scan.image_from_lidar[place], float).reshape(3, 4)
                camera = pinhole(matrix)
                if camera is not None:
                    yield View((root.name, scan.sequence, place), xyz, is_jump, camera, image)


def turned(camera: Pinhole, axis: int, degrees: float) -> Pinhole:
    """A calibration that is turned about an axis of its camera."""
    a, b = [i for i in range(3) if i != axis]
    turn, angle = np.eye(3), np.deg2rad(degrees)
    turn[a, a] = turn[b, b] = np.cos(angle)
    turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
    return camera._replace(rotation=turn @ camera.rotation)


def cases(view: View, others: Sequence[View]) -> Iterator[tuple[str, Pinhole, NDArray[np.uint8]]]:
    """Name, calibration and picture."""
    yield "as it is", view.camera, view.image
    for name, axis in AXES.items():
        for degrees in TURNS_DEG:
            for sign in (1, -1):
                there = turned(view.camera, axis, sign * degrees)
                yield f"{name} {sign * degrees:+g}", there, view.image
    noise = np.random.default_rng(0).normal(10, 6, view.image.shape)
    yield "in the dark", view.camera, np.clip(view.image * DARK + noise, 0, 255).astype(np.uint8)
    fitting = [
        one
        for one in others
        if one.image.shape == view.image.shape and one.group[1:] != view.group[1:]
    ]
    for place, one in enumerate(fitting[:MOST_OTHERS]):
        yield f"picture of another scan {place}", view.camera, one.image


def report(groups: Sequence[dict[str, list[NDArray[np.float32]]]]) -> None:
    """Print what is found, a line for each kind of case."""
    kinds: dict[str, list[tuple[float, float, bool]]] = {}
    for group in groups:
        for name, scores in group.items():
            kind = name.replace("+", "").replace("-", "").rstrip("01234 " * ("scan" in name))
            heights = edge_heights(scores)
            if heights is not None:
                found = clear_turn(scores) is not None
                kinds.setdefault(kind, []).append((heights.best - heights.own, heights.own, found))
    for kind, values in kinds.items():
        lead, own, found = np.array(values, float).T
        print(
            f"{kind:24} {len(values):4} lead {lead.min():5.1f} {np.median(lead):5.1f} "
            f"{lead.max():5.1f}, height {own.min():4.1f} {np.median(own):4.1f}, "
            f"found {found.mean():4.0%}"
        )


def compare(roots: Sequence[Path]) -> None:
    """Print the tables."""
    known = list(views(roots))
    single: list[dict[str, list[NDArray[np.float32]]]] = []
    pooled: dict[tuple[str, str, int], dict[str, list[NDArray[np.float32]]]] = {}
    started = time.process_time()
    for view in known:
        view.scores(camera=view.camera, image=view.image)
    print(f"{1e3 * (time.process_time() - started) / max(1, len(known)):.0f} ms of CPU a picture")
    for view in known:
        single.append({})
        group = pooled.setdefault(view.group, {})
        for name, camera, image in cases(view, known):
            scores = view.scores(camera=camera, image=image)
            if scores is not None:
                single[-1][name] = [scores]
                group.setdefault(name, []).append(scores)
    print(f"{len(single)} pictures, each alone (lead: least, middle, most; height: least, middle)")
    report(single)
    several = [group for group in pooled.values() if len(group.get("as it is", ())) > 1]
    print(f"{len(several)} sequences and cameras of several pictures, together")
    report(several)


def main() -> None:
    """Print the tables for the folders on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("roots", nargs="*", type=Path)
    roots = parser.parse_args().roots
    with TemporaryDirectory() as folder:
        compare(roots or [sample_root(Path(folder))])


if __name__ == "__main__":
    main()
