from pathlib import Path

import pytest
from pipeline_files import check_semkitti

from bench.many_scans import ManyScans, write_many
from pass2d.common.progress import Silent
from pass2d.pipeline.datasets.semkitti import list_semkitti

CONFIG = ManyScans(scans=7, points=500, image_hw=(16, 64), per_sequence=4)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    write_many(folder, CONFIG)
    return folder


def test_many_scans_are_a_sound_semantickitti_folder(root: Path) -> None:
    listing = list_semkitti(root)
    assert [scan.scan_id for scan in listing.scans if scan.sequence == "08"] == [
        f"08/00000{i}" for i in range(4)
    ]
    assert len(listing.scans) == 7
    assert not [p for p in check_semkitti(root, progress=Silent()) if p.severity == "error"]


def test_many_scans_differ_from_each_other_and_repeat_with_the_seed(
    root: Path, tmp_path: Path
) -> None:
    files = sorted(path.relative_to(root) for path in root.rglob("*.bin"))
    assert len({(root / name).read_bytes() for name in files}) == 7
    write_many(tmp_path, CONFIG)
    assert all((root / name).read_bytes() == (tmp_path / name).read_bytes() for name in files)
