"""Predictions of described data sets: where their files lie, and which numbers they hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from described_samples import DESCRIPTION

from pass2d.common.errors import ConfigError
from pass2d.pipeline.datasets.described.description import description_of
from pass2d.pipeline.datasets.described.facts import table_of
from pass2d.pipeline.datasets.described.sources import load_description, preset_names
from pass2d.pipeline.stages.read_described import described_labels
from pass2d.train.submission.label_files import LabelFiles, label_files

HEDGE, CART = 1, 2


@dataclass
class Table:
    scan_id: list[str]


class Sources:
    """A cache as far as its raw files go."""

    root = Path("cache/yard")

    def __init__(self, *files: tuple[str, str | None]) -> None:
        self.scans = Table(scan_id=[f"scan {place}" for place in range(len(files))])
        self._files = files

    def source_file(self, position: int, role: str) -> Path | None:
        name = self._files[position][role == "labels"]
        return None if name is None else Path("/data/set") / name


def plain(**labels: object) -> dict[str, object]:
    return {
        "dataset": {"name": "yard"},
        "points": {"files": "{sequence}/clouds/{scan}.bin"},
        "labels": {"files": "{sequence}/truth/{scan}.label", **labels},
        "class": [{"name": "hedge", "raw": [7, 9], "write": 9}, {"name": "cart", "raw": [1]}],
        "splits": {"train": {"share": 1.0}},
    }


def files_of(described: dict[str, object]) -> tuple[LabelFiles, object]:
    info = table_of(description_of(described, where="yard.toml")).info
    return label_files(info, where="cache/yard"), info


@pytest.mark.parametrize("suffix", [".label", ".bin", ".npy", ".npz"])
@pytest.mark.parametrize(
    "dtype", ["i1", "u1", "i2", "u2", "<i4", "u4", "i8", "u8", ">u2", ">i4", ">u8", "f4"]
)
def test_files_read_as_prepare_reads_labels(dtype: str, suffix: str, tmp_path: Path) -> None:
    files, info = files_of(plain(dtype=dtype, files=f"{{sequence}}/truth/{{scan}}{suffix}"))
    training = np.array([0, HEDGE, CART, CART, HEDGE], np.uint8)
    file = tmp_path / f"0{suffix}"
    file.write_bytes(files.encode(file.name, training))
    expected = [0, 9, 1, 1, 9]
    assert described_labels(file, info, info.raw_format).tolist() == expected
    assert files.decode(file.name, file.read_bytes()).tolist() == expected
    if suffix in (".label", ".bin"):
        assert np.fromfile(file, dtype).tolist() == expected
        assert file.stat().st_size == 5 * np.dtype(dtype).itemsize
    if suffix == ".npy":
        assert np.load(file).dtype == np.dtype(dtype)


@pytest.mark.parametrize(
    ("dtype", "more", "number"),
    [
        ("i2", {}, -1),
        ("i8", {}, -1),
        ("u2", {}, 65535),
        ("u4", {}, 65535),
        ("u4", {"shift": 8}, 65535 << 8),
        ("i4", {"mask": 0xFFFF}, -1),
        ("i4", {"mask": 0xFFFF, "instance": {"shift": 16}}, 65535),
        ("u8", {"shift": 48}, 65535 << 48),
    ],
)
def test_a_negative_id_is_written_so_where_the_type_can(
    dtype: str, more: dict[str, object], number: int
) -> None:
    described = plain(dtype=dtype, **more)
    described["class"] = [{"name": "ghost", "raw": [-1]}]
    files, _ = files_of(described)
    assert files.numbers.tolist() == [0, number]
    assert files.decode("a.label", files.encode("a.label", np.array([1], np.uint8))) == [65535]


@pytest.mark.parametrize(
    ("labels", "ids"),
    [({"dtype": "u1"}, [300]), ({"mask": 0xF}, [16]), ({"dtype": "u2", "shift": 12}, [16])],
)
def test_an_id_that_the_files_cannot_hold_is_an_error(
    labels: dict[str, object], ids: list[int]
) -> None:
    described = plain(**labels)
    described["class"] = [{"name": "cart", "raw": ids}]
    with pytest.raises(ConfigError, match=rf"cannot hold raw id {ids[0]} of class 'cart'"):
        files_of(described)


def test_a_data_set_without_classes_has_no_ids_to_write() -> None:
    described = plain()
    del described["class"], described["labels"]
    with pytest.raises(ConfigError, match=r"cache/yard: .* names no classes, so there are no raw"):
        files_of(described)


@pytest.mark.parametrize(
    ("points", "labels", "source", "name"),
    [
        ("{sequence}/velodyne/{scan}.bin", {"files": "{sequence}/gt/{scan}.label"},
         ("00/velodyne/17.bin", None), "00/gt/17.label"),
        ("{split}/{town}/{scan}.pcd", {"files": "truth/{town}/{scan}.npy"},
         ("val/Ulm/a-b.pcd", None), "truth/Ulm/a-b.npy"),
        # A "*" is what it is in the scan's own labels; else it stands for nothing.
        ("{sequence}/{scan}.bin", {"files": "{sequence}/gt/{scan}_*.label"},
         ("00/17.bin", "00/gt/17_v2.label"), "00/gt/17_v2.label"),
        ("{sequence}/{scan}.bin", {"files": "{sequence}/*/{scan}_*.label"},
         ("00/17.bin", None), "00/any/17_.label"),
        # ScribbleKITTI: whole labels outside train.
        ("{sequence}/v/{scan}.bin",
         {"files": "{sequence}/scrib/{scan}.label", "otherwise": "{sequence}/labels/{scan}.label"},
         ("11/v/0.bin", None), "11/labels/0.label"),
        ("{sequence}/v/{scan}.bin",
         {"files": "{sequence}/scrib/{scan}.label", "otherwise": "{sequence}/labels/{scan}.label"},
         ("00/v/0.bin", "00/scrib/0.label"), "00/scrib/0.label"),
        # Labels in the point file: a file of their own beside it.
        ("{sequence}/{scan}.ply", {"column": "class"}, ("a/0.ply", "a/0.ply"), "a/0.label"),
        ("{sequence}/{scan}.pcd.gz", {"column": "class"}, ("a/0.7.pcd.gz", None), "a/0.7.label"),
    ],
)  # fmt: skip
def test_files_lie_where_the_labels_of_the_description_do(
    points: str, labels: dict[str, str], source: tuple[str, str | None], name: str
) -> None:
    described = plain()
    described |= {"points": {"files": points}, "labels": labels}
    files, _ = files_of(described)
    assert files.names(Sources(source), [0]) == [name]
    if "column" in labels:
        ids = np.frombuffer(files.encode(name, np.array([CART, 0], np.uint8)), "<u4")
        assert ids.tolist() == [1, 0]


def test_scans_that_share_a_label_file_are_an_error() -> None:
    files, _ = files_of(plain(files="truth/{scan}.label"))
    with pytest.raises(ConfigError, match=r"scan 0 and scan 1 share the label file truth/7\.label"):
        files.names(Sources(("a/clouds/7.bin", None), ("b/clouds/7.bin", None)), [0, 1])


def test_a_cache_of_other_files_is_an_error() -> None:
    files, _ = files_of(plain())
    with pytest.raises(ConfigError, match=r"prepared from /data/set/7\.pcd, which does not"):
        files.names(Sources(("7.pcd", None)), [0])


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_writes_ids_that_its_own_labels_may_have(preset: str, tmp_path: Path) -> None:
    info = table_of(load_description(preset)).info
    files = label_files(info, where="cache")
    training = np.arange(info.labels.n_classes, dtype=np.uint8)
    data = files.encode("0.label", training)
    assert files.decode("0.label", data).tolist() == list(info.labels.training_to_raw)
    if files.patterns:
        file = tmp_path / "0.label"
        file.write_bytes(data)
        raw = described_labels(file, info, info.raw_format) & 0xFFFF
        assert info.labels.training_lookup()[raw].tolist() == training.tolist()


def test_damage_to_what_the_cache_keeps_is_one_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "yard.toml"
    file.write_text(DESCRIPTION)
    info = table_of(load_description(file)).info
    for damaged in ({}, {"points": 3}, {"points": {"files": "x"}, "class": [1]}):
        with pytest.raises(ConfigError, match="damaged"):
            label_files(replace(info, description=damaged), where="cache/yard")
