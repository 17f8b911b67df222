"""Folders and their descriptions, both chosen by chance from all that a description can say."""

from __future__ import annotations

import gzip
import io
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import laspy
import numpy as np
from pandas_samples import write_table
from PIL import Image
from plyfile import PlyData, PlyElement
from scipy.spatial.transform import Rotation

from pass2d.points.mapping import ROLES

N = 240
UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001, "ft": 0.3048, "0.5": 0.5}
K = [[30.0, 0.0, 32.0], [0.0, 30.0, 16.0], [0.0, 0.0, 1.0]]
LAYOUTS = (
    "drives/{sequence}/pts/{scan}",
    "{sequence}/{scan}",
    "data/{sequence}_{scan}",
    "{split}/points/{scan}",
    "points/{scan}",
)
NAMED = (".npz", ".pcd", ".ply", ".csv", ".pkl", ".pkl.gz", ".las", ".laz")
"""Formats whose columns have names."""
FLIGHT = {"signal": "intensity", "label": "user_data"}
"""What `.las` and `.laz` call them: whole numbers of 16 bits, and of 8."""
FORMATS = (".bin", ".bin.gz", ".npy", ".txt", *NAMED)
ODDITIES = (
    "no val",
    "few points",
    "no class",
    "an empty scan",
    "far away",
    "few poses",
    "huge picture",
)
"""What `--check` may refuse or take; where it takes it, all else must."""
LABEL_TYPES = ("u1", "i1", "u2", "<i2", ">u2", "u4", "<i4", ">i4", "i8", "u8", ">u8")


def write_variety(root: Path, choose: random.Random) -> tuple[Path, list[Path], str]:
    """Make a folder.

    Returns:
        Its description, some of its point files, and what is odd about it.
    """
    maker = _Maker(root, choose)
    maker.write_scans()
    return maker.write_description(), maker.points, maker.oddity


class _Maker:
    """One folder: what is chosen, and what was written."""

    def __init__(self, root: Path, choose: random.Random) -> None:
        self.root, self.choose = root, choose
        self.rng = np.random.default_rng(choose.randrange(1 << 30))
        self.points: list[Path] = []
        pick = choose.choice
        self.layout = pick(LAYOUTS)
        self.suffix = pick(FORMATS)
        extra = choose.sample(("ring", "time", "row"), choose.randrange(3))
        signal = ["signal"] if choose.random() < 0.8 or extra else []
        self.columns = ["x", "y", "z", *signal, *extra]
        if choose.random() < 0.5:
            choose.shuffle(self.columns)
        self.is_flight = self.suffix in (".las", ".laz")
        if self.is_flight or (self.suffix not in (".bin", ".bin.gz") and self.suffix not in NAMED):
            self.columns = ["x", "y", "z", "signal"]  # numbers without names: the usual four
        self.dtype = pick(("f4", "f4", "f8", ">f4", ">f8"))
        self.unit = pick(list(UNITS))
        self.rotate = pick(("", "", "90,0,0", "-30,5,2", "0.7071068,0,0,0.7071068"))
        self.z_offset = pick((0.0, 0.0, -1.7, 2.0))
        self.full = pick((1.0, 255.0))
        self.scale = pick((1.0, 0.5, 1 / 255))
        self.ahead = pick(("x", "x", "y"))
        self._choose_labels()
        self._choose_scans()
        self.n_cameras = pick((0, 0, 1, 2))
        self.oddity = pick(ODDITIES) if choose.random() < 0.4 else ""
        self.has_poses = choose.random() < 0.4 and "{sequence}" in self.layout

    def _choose_labels(self) -> None:
        choose, pick = self.choose, self.choose.choice
        self.label_dtype = pick(LABEL_TYPES)
        bits = 8 * np.dtype(self.label_dtype).itemsize - (np.dtype(self.label_dtype).kind == "i")
        self.shift = pick((0, 0, 2)) if bits > 8 else 0
        self.has_instances = bits >= 31 and choose.random() < 0.4
        self.label_form = pick((".label", ".label", ".bin", ".npy", ".npz", "column"))
        if self.label_form == ".bin" and self.suffix.startswith(".bin"):
            self.label_form = ".label"
        most = min(bits - self.shift, 14)
        if self.label_form == "column":
            self.shift, self.has_instances, most = 0, False, 6
            self.label_column = FLIGHT["label"] if self.is_flight else "label"
            if self.suffix in (".npy", ".txt"):
                self.label_column = str(len(self.columns))
        ids = choose.sample(range(1, 1 << most), 7)
        n_classes = choose.randrange(1, 5)
        self.class_ids = [ids[place : place + 1] for place in range(n_classes)]
        if n_classes > 1:
            self.class_ids[0] = [ids[0], ids[5]]
        self.ignored_ids = pick(([0], [0, ids[6]], []))
        self.unnamed = pick(("error", "ignore"))
        present = [one for parts in self.class_ids for one in parts] + self.ignored_ids
        if choose.random() < 0.3 and n_classes > 1:
            present = [one for one in present if one not in self.class_ids[-1]]  # an absent class
        if self.unnamed == "ignore":
            present.append(ids[4])
        self.present = present

    def _choose_scans(self) -> None:
        choose = self.choose
        names = choose.choice((["a", "b", "c"], ["00", "08", "11"], ["run-1", "run-2", "run.3"]))
        form = choose.choice(("{:06d}", "{}", "17000000{:02d}.25", "scan{:02d}"))
        self.scans = [(name, form.format(place)) for name in names for place in range(2)]
        if "{sequence}" not in self.layout:
            self.scans = [(name, f"{name}{scan}") for name, scan in self.scans]
        self.split_of = dict(zip(names, ("train", "val", "test"), strict=True))
        self.names = names
        self.is_test_labelled = choose.random() < 0.5

    def _path(self, pattern: str, name: str, scan: str) -> Path:
        words = {"sequence": name, "scan": scan, "split": self.split_of[name]}
        for word, value in words.items():
            pattern = pattern.replace(f"{{{word}}}", value)
        file = self.root / pattern
        file.parent.mkdir(parents=True, exist_ok=True)
        return file

    def write_scans(self) -> None:
        """Points, labels, pictures, calibration, poses."""
        for name, scan in self.scans:
            raw = self.rng.choice(self.present, N)
            if self.oddity == "no class" and self.split_of[name] == "val":
                raw[:] = self.ignored_ids[0] if self.ignored_ids else raw[0]
            cloud = self._cloud(raw)
            few = {"few points": 3, "an empty scan": 0 if scan == self.scans[0][1] else N}
            n = few.get(self.oddity, N)
            raw, cloud = raw[:n], {key: values[:n] for key, values in cloud.items()}
            file = self._path(f"{self.layout}{self.suffix}", name, scan)
            self._write_points(file, cloud)
            self.points.append(file)
            is_labelled = self.split_of[name] != "test" or self.is_test_labelled
            if is_labelled and self.label_form != "column":
                self._write_labels(name, scan, raw)
            for camera in range(self.n_cameras):
                if self.rng.random() < 0.9:
                    hw = (32, 64) if self.oddity != "huge picture" else (320, 640)
                    picture = self.rng.integers(0, 255, (*hw, 3), dtype=np.uint8)
                    file = self._path(self._pictures(camera), name, scan)
                    Image.fromarray(picture).save(file)
        for name in self.names:
            if self.has_poses:
                lines = (
                    f"1 0 0 {place} 0 1 0 0 0 0 1 0\n"
                    for place in range(self.oddity == "few poses", 2)
                )
                self._path("poses/{sequence}.txt", name, "").write_text("".join(lines))
            rows = self._camera_from_lidar()[:3]
            numbers = " ".join(str(value) for row in rows for value in row)
            text = f"P2: 30 0 32 0 0 30 16 0 0 0 1 0\nTr: {numbers}\n"
            self._path("calib/{sequence}.txt", name, "").write_text(text)
            rig = {"left": {"K": K, "T": self._camera_from_lidar()}}
            self._path("calib/{sequence}.json", name, "").write_text(json.dumps(rig))

    def _camera_from_lidar(self) -> list[list[float]]:
        """Looks ahead, of the files' frame or the lidar's."""
        return [[0, -1, 0, 0], [0, 0, -1, 0.2], [1, 0, 0, 0.1], [0, 0, 0, 1]]

    def _cloud(self, raw: np.ndarray) -> dict[str, np.ndarray]:
        """Columns of a file, so that the points lie in the volume as described."""
        xyz = self.rng.uniform((-18, -18, -2), (18, 18, 0.5), (N, 3))
        xyz += 1e5 if self.oddity == "far away" else 0
        xyz[:, 2] -= self.z_offset
        if self.rotate:
            numbers = [float(word) for word in self.rotate.split(",")]
            turned = (
                Rotation.from_euler("ZYX", numbers, degrees=True)
                if len(numbers) == 3
                else Rotation.from_quat([*numbers[1:], numbers[0]])
            )
            xyz = turned.inv().apply(xyz)
        xyz /= UNITS[self.unit]
        cloud = dict(zip("xyz", xyz.T, strict=True))
        cloud["signal"] = self.rng.uniform(0, self.full / self.scale, N)
        if self.is_flight:
            cloud["signal"] = cloud["signal"].round()
        cloud["ring"], cloud["row"] = np.arange(N) % 16, np.arange(N) // 16
        cloud["time"] = np.linspace(0, 0.1, N)
        return {**{name: cloud[name] for name in self.columns}, "label": raw}

    def _write_points(self, file: Path, cloud: dict[str, np.ndarray]) -> None:
        has_label = self.label_form == "column"
        names = [*self.columns, *(["label"] if has_label else [])]
        table = np.column_stack([cloud[name] for name in names])
        suffix = self.suffix.removesuffix(".gz")
        if self.is_flight:
            write_flight(file, {FLIGHT.get(name, name): cloud[name] for name in names})
        elif suffix == ".bin":
            data = table.astype(self.dtype if self.dtype[0] == ">" else f"<{self.dtype}").tobytes()
            file.write_bytes(gzip.compress(data) if self.suffix.endswith(".gz") else data)
        elif suffix == ".npy":
            np.save(file, table.astype(np.float32))
        elif suffix == ".npz":
            np.savez(file, **{name: cloud[name] for name in names})
        elif suffix == ".pkl":
            write_table(file, {name: cloud[name] for name in names}, "1.1")
        elif suffix == ".ply":
            rows = np.rec.fromarrays(table.T.astype(np.float32), names=",".join(names))
            PlyData([PlyElement.describe(rows, "vertex")]).write(str(file))
        elif suffix == ".pcd":
            n, n_points = len(names), len(table)
            head = (
                f"VERSION .7\nFIELDS {' '.join(names)}\nSIZE{' 4' * n}\nTYPE{' F' * n}\n"
                f"COUNT{' 1' * n}\nWIDTH {n_points}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\n"
                f"POINTS {n_points}\nDATA binary\n"
            )
            file.write_bytes(head.encode() + table.astype("<f4").tobytes())
        else:
            separator = "," if suffix == ".csv" else " "
            head = f"{separator.join(names)}\n" if suffix == ".csv" else ""
            lines = "\n".join(separator.join(f"{v:.7g}" for v in row) for row in table)
            file.write_text(f"{head}{lines}\n")

    def _labels(self) -> str:
        """The pattern of the label files."""
        return f"truth/{self.layout}{self.label_form}"

    def _write_labels(self, name: str, scan: str, raw: np.ndarray) -> None:
        packed = raw.astype(np.int64) << self.shift
        if self.has_instances:
            packed |= self.rng.integers(0, 3, len(raw)) << 18
        values = packed.astype(self.label_dtype)
        assert (values.astype(np.int64) == packed).all()
        file = self._path(self._labels(), name, scan)
        if self.label_form == ".npy":
            np.save(file, values)
        elif self.label_form == ".npz":
            np.savez(file, labels=values)
        else:
            values.tofile(file)

    def _pictures(self, camera: int) -> str:
        return f"pictures{camera}/{self.layout}{('.png', '.jpg')[camera]}"

    def write_description(self) -> Path:
        """As TOML."""
        choose, tables = self.choose, io.StringIO()

        def table(head: str, values: Mapping[str, Any]) -> None:
            lines = "".join(f"{key} = {toml(value)}\n" for key, value in values.items())
            tables.write(f"{head}\n{lines}\n")

        like = {"like": choose.choice(("semkitti", "nuscenes"))} if choose.random() < 0.15 else {}
        about = {"class_weights": choose.random() < 0.6}
        about["absent_classes"] = choose.choice(("zero", "left-out"))
        table("[dataset]", {"name": "variety", **like, **about})
        signal = {"name": "intensity", "scale": self.scale, "full": self.full}
        unit = 0.5 if self.unit == "0.5" else self.unit
        frame = {"unit": unit, "rotate": self.rotate, "z_offset": self.z_offset}
        files = f"{self.layout}{self.suffix}"
        points: dict[str, Any] = {"files": files, **frame, "ahead": self.ahead, "signal": signal}
        if self.suffix in NAMED:
            names = FLIGHT if self.is_flight else {}
            points["map"] = {n: names.get(n, n) for n in ROLES if n in self.columns}
        else:
            label = ["label"] if self.label_form == "column" else []
            points |= {"columns": [*self.columns, *label], "dtype": self.dtype}
        table("[points]", points)
        labels: dict[str, Any] = {"unnamed": self.unnamed}
        if self.label_form == "column":
            labels["column"] = self.label_column
        else:
            labels |= {"files": self._labels(), "dtype": self.label_dtype, "shift": self.shift}
            if self.has_instances:
                labels |= {"mask": (1 << (18 - self.shift)) - 1, "instance": {"shift": 18}}
        table("[labels]", labels)
        if self.ignored_ids:
            table("[ignored]", {"name": "nothing", "raw": self.ignored_ids})
        for place, raw in enumerate(self.class_ids):
            more: dict[str, Any] = {"write": raw[-1]} if choose.random() < 0.3 else {}
            more |= {"thing": True, "vehicle": True} if choose.random() < 0.3 else {}
            more |= {"color": f"#{choose.randrange(1 << 24):06x}"} if choose.random() < 0.3 else {}
            table("[[class]]", {"name": f"kind {place}", "raw": raw, **more})
        table("[splits]", self._splits())
        volume = choose.choice(
            (
                {},
                {"low": [-20, -20, -3], "high": [20, 20, 3], "cells": [200, 200, 30]},
                {"low": [-20, -19, -4.5], "high": [19, 20, 3], "cells": [101, 67, 9]},
                {"low": [-500, -500, -30], "high": [500, 500, 30], "cells": [4000, 4000, 240]},
                {"low": [-5, -5, -3], "high": [5, 5, 3], "cells": [64, 64, 4]},
            )
        )
        if volume:
            table("[volume]", volume)
        if choose.random() < 0.5:
            table("[sensor]", {"beams": choose.choice((1, 16, 128)), "fov_deg": [10, -12]})
        for camera in range(self.n_cameras):
            table("[[camera]]", {"files": self._pictures(camera), "calib": self._calibration()})
        if self.has_poses:
            frame_of = choose.choice(("lidar", "camera") if self.n_cameras else ("lidar",))
            table("[poses]", {"file": "poses/{sequence}.txt", "frame": frame_of, "hz": 5.0})
        file = self.root / "variety.toml"
        file.write_text(tables.getvalue())
        return file

    def _calibration(self) -> dict[str, Any]:
        inline = {"kind": "inline", "K": K, "T": self._camera_from_lidar()}
        if "{sequence}" not in self.layout:
            return inline
        kitti = {"kind": "kitti", "file": "calib/{sequence}.txt", "matrix": "P2", "extrinsic": "Tr"}
        keys = {"matrix": "left.K", "extrinsic": "left.T"}
        of_json = {"kind": "json", "file": "calib/{sequence}.json", **keys}
        return self.choose.choice((inline, kitti, of_json))

    def _splits(self) -> dict[str, Any]:
        if "{split}" in self.layout:
            return {name: {"folders": [name]} for name in ("train", "val", "test")}
        kinds = ["list", "glob", "share"]
        if "{sequence}" in self.layout:
            kinds += ["sequences", "sequences"]
        kind = self.choose.choice(kinds)
        wanted = ["train"]
        wanted += ["val"] if self.oddity != "no val" else []
        wanted += ["test"] if self.choose.random() < 0.6 else []
        found: dict[str, Any] = {}
        for name, split in self.split_of.items():
            if split not in wanted:
                continue
            files = [
                str(file.relative_to(self.root))
                for (sequence, _), file in zip(self.scans, self.points, strict=True)
                if sequence == name
            ]
            if kind == "list":
                (self.root / f"{split}.lst").write_text("\n".join(files))
                found[split] = {"list": f"{split}.lst"}
            elif kind == "glob":
                words = self.layout.replace("{sequence}", name)
                scan = "*" if "{sequence}" in self.layout else f"{name}*"
                found[split] = {"glob": words.replace("{scan}", scan) + self.suffix}
            elif kind == "share":
                found[split] = {"share": 0.5 if split == "train" else 0.25}
            else:
                found[split] = {"sequences": [name]}
        return found


def write_flight(file: Path, columns: Mapping[str, np.ndarray]) -> None:
    """As `.las` or `.laz`."""
    las = laspy.LasData(laspy.LasHeader(point_format=0, version="1.2"))
    xyz = np.stack([columns[name] for name in "xyz"])
    if xyz.size:
        las.header.offsets = xyz.mean(axis=1)
        las.header.scales = np.maximum(np.ptp(xyz, axis=1), 1) / 1e8
    for name, values in columns.items():
        las[name] = values
    las.write(str(file))


def toml(value: Any) -> str:
    """A value as TOML has it, on one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return f"[{', '.join(toml(item) for item in value)}]"
    return json.dumps(value)
