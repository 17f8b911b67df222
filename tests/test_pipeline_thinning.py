"""Thinned points and neighbours: against a plain version, and from `prepare` to a cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
from nuscenes_files import NuscenesFolder
from pipeline_files import shards, write_sequence
from thinned_caches import INLINE, prepare_changed, with_thinned
from typer.testing import CliRunner

from pass2d.cache.care.verify import verify
from pass2d.cache.clouds.nowhere import NOWHERE
from pass2d.cache.fields import STORED_THINNING, Fields
from pass2d.cache.layout import Layout
from pass2d.cache.manifest import load_manifest
from pass2d.cache.reader import CacheReader
from pass2d.commands.app import app
from pass2d.common.errors import CacheError
from pass2d.common.progress import Silent
from pass2d.common.thinning import ThinnedScan, ThinningConfig, thinned_scan
from pass2d.pipeline.datasets.relist import list_again
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import prepare
from pass2d.pipeline.repair.rebuild_shards import rebuild_and_compare
from pass2d.pipeline.run.runners import InlineRunner
from pass2d.pipeline.run.tasks import ContainerTask, TaskContext
from pass2d.pipeline.stages.thinning import thin_raw_scan

ASKED = Fields(outside=True, thinned=True)


def plain_rows(xyz: np.ndarray, cell_m: float, order: Sequence[int]) -> list[int]:
    """The first row of each cell in an order, by a loop; by cell."""
    low = xyz.min(axis=0)
    first: dict[tuple[int, ...], int] = {}
    for row in order:
        cell = tuple(int(c) for c in (xyz[row] - low) / np.float32(cell_m))
        first.setdefault(cell, row)
    return [first[cell] for cell in sorted(first)]


def assert_nearest(xyz: np.ndarray, found: ThinnedScan, k: int) -> None:
    """Of equally near points any may be named; their distances are those of all of them sorted."""
    near = xyz[found.rows].astype(np.float64)
    places = (found.apart + np.arange(len(near))).T
    assert places.shape == (len(near), k)
    for place, row in enumerate(places):
        apart = np.linalg.norm(near - near[place], axis=1)
        expected = np.sort(apart)[1:]
        expected = np.pad(expected, (0, max(0, k - len(expected))), mode="edge")[:k]
        np.testing.assert_allclose(apart[row], expected, atol=1e-12)
        distinct = len(near) > k and expected[0] > 0
        assert not distinct or (place not in row and len(set(row)) == k)
    for row, place in enumerate(found.answers):
        apart = np.linalg.norm(near - xyz[row], axis=1)
        assert apart[place] == apart.min()


def cloud(seed: int, n: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, (3, 2, 0.3), (n, 3)).astype(np.float32)


def lattice() -> np.ndarray:
    """Every point has several at the same distance; some come twice."""
    axis = np.arange(5, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 3)
    return np.concatenate([grid, grid[::3] + np.float32(0.25), grid[:7]])


@pytest.mark.parametrize(
    ("xyz", "cell_m"), [(cloud(0, 400), 0.1), (cloud(1, 300), 0.7), (lattice(), 0.5)]
)
def test_it_is_that_of_a_plain_loop(xyz: np.ndarray, cell_m: float) -> None:
    found = thinned_scan(xyz, ThinningConfig(cell_m=cell_m, neighbours=6))
    assert found.rows.tolist() == plain_rows(xyz, cell_m, range(len(xyz)))
    assert_nearest(xyz, found, 6)


def test_a_random_point_of_each_cell_answers_for_its_cell() -> None:
    xyz, config = cloud(2, 300), ThinningConfig(cell_m=0.7, neighbours=4)
    found = thinned_scan(xyz, config, rng=np.random.default_rng(5), workers=2)
    order = np.random.default_rng(5).permutation(300)
    assert found.rows.tolist() == plain_rows(xyz, 0.7, order.tolist())
    cells = ((xyz - xyz.min(axis=0)) / np.float32(0.7)).astype(int)
    assert np.array_equal(cells[found.rows[found.answers]], cells)
    assert_nearest(xyz, replace(found, answers=np.zeros(0, int)), 4)


def test_few_points_repeat_the_farthest() -> None:
    xyz = np.array([[0, 0, 0], [1, 0, 0], [3, 0, 0]], np.float32)
    found = thinned_scan(xyz, ThinningConfig(cell_m=0.1, neighbours=4))
    places = (found.apart + np.arange(3)).T
    assert places.tolist() == [[1, 2, 2, 2], [0, 2, 2, 2], [1, 0, 0, 0]]
    alone = thinned_scan(xyz[:1], ThinningConfig(cell_m=0.1, neighbours=2))
    assert (alone.rows.tolist(), alone.apart.tolist()) == ([0], [[0], [0]])


def test_rows_without_a_point_take_no_part() -> None:
    points = cloud(3, 50)
    where = np.sort(np.random.default_rng(0).permutation(80)[:50])
    raw = np.tile(np.array(NOWHERE, np.float32), (80, 1))
    raw[where] = points
    found, bare = thin_raw_scan(raw.T), thin_raw_scan(points.T)
    assert found is not None
    assert bare is not None
    assert found.rows.tolist() == where[bare.rows].tolist()
    is_there = np.isin(np.arange(80), where)
    assert not found.answers[~is_there].any()
    again = found.of_points(is_there)
    for name in ("rows", "apart", "answers"):
        assert np.array_equal(getattr(again, name), getattr(bare, name))
    assert thin_raw_scan(np.tile(np.array(NOWHERE, np.float32), (4, 1)).T) is None


def test_a_scan_of_too_many_cells_is_not_thinned() -> None:
    xyz = cloud(4, 20)
    xyz[3, 0] = 3e5
    assert thin_raw_scan(xyz.T) is None


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    root = tmp_path / "raw"
    write_sequence(root, "00", (0, 1, 2), n=300)
    write_sequence(root, "08", (0, 5), n=200, images=False)
    return root


def assert_holds(root: Path) -> None:
    with CacheReader.open(root) as reader:
        assert reader.thinnings == (STORED_THINNING,)
        for position in range(len(reader.scans)):
            record = reader.read(position, ASKED)
            expected = thin_raw_scan(record.raw().points[:, :3].T)
            assert record.thinned is not None
            assert expected is not None
            assert reader.scans.thinned[position] == len(expected.rows)
            for name in ("rows", "apart", "answers"):
                assert np.array_equal(getattr(record.thinned, name), getattr(expected, name))
            assert reader.read(position, Fields()).thinned is None


def test_prepare_adds_it_and_keeps_all_else(raw: Path, tmp_path: Path) -> None:
    listing, out = list_semkitti(raw), tmp_path / "semkitti"
    prepare(listing, out, INLINE, Silent())
    before = shards(out)
    assert not any(name.startswith("thinned") for name in before)
    with CacheReader.open(out) as reader:
        assert reader.thinnings == ()
        assert reader.read(0, ASKED).thinned is None
    summary = prepare(with_thinned(listing), out, INLINE, Silent())
    assert (summary.written_shards, summary.kept_shards) == (3, 12)
    after = shards(out)
    assert {name: after[name] for name in before} == before
    assert_holds(out)
    assert prepare(with_thinned(listing), out, INLINE, Silent()).written_shards == 0
    assert verify(out, Silent(), rebuild=rebuild_and_compare(out), rebuild_share=1.0).is_sound
    # Without it the next generation has none; asked for again, it is there already.
    prepare(listing, out, INLINE, Silent())
    with CacheReader.open(out) as reader:
        assert reader.thinnings == ()
    assert prepare(with_thinned(listing), out, INLINE, Silent()).written_shards == 0
    assert_holds(out)


def test_changed_points_make_it_again(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "semkitti"
    prepare(with_thinned(list_semkitti(raw)), out, INLINE, Silent())
    points = raw / "sequences/08/velodyne/000000.bin"
    moved = np.fromfile(points, "<f4").reshape(-1, 4)
    moved[::3, 0] += 1
    moved.tofile(points)
    summary = prepare(with_thinned(list_semkitti(raw)), out, INLINE, Silent())
    assert (summary.written_shards, summary.kept_shards) == (5, 10)
    assert_holds(out)


def test_a_run_that_was_stopped_goes_on(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "semkitti"
    listing = with_thinned(list_semkitti(raw))

    class Stopping(InlineRunner):
        def submit(self, task: ContainerTask) -> None:
            if task.container == "thinned" and task.job.sequence == "08":
                raise KeyboardInterrupt
            super().submit(task)

    def stopping(context: TaskContext) -> InlineRunner:
        return Stopping(context, max_retries=0)

    with pytest.raises(KeyboardInterrupt):
        prepare(listing, out, INLINE, Silent(), runner=stopping)
    whole = prepare(listing, tmp_path / "whole" / "semkitti", INLINE, Silent())
    resumed = prepare(listing, out, INLINE, Silent())
    assert 0 < resumed.written_shards < whole.written_shards
    assert shards(out) == shards(tmp_path / "whole" / "semkitti")
    assert_holds(out)


def test_damage_is_found_and_named(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "semkitti"
    prepare(with_thinned(list_semkitti(raw)), out, INLINE, Silent())
    (data,) = out.glob("thinned/008000-*.zarr/neighbour/c/0/0/0")
    damaged = bytearray(data.read_bytes())
    damaged[40] ^= 1
    data.write_bytes(damaged)
    (damage,) = verify(out, Silent()).damages
    assert (damage.container, damage.field, damage.scan_ids) == (
        "thinned",
        "neighbour",
        ("08/000000",),
    )
    with (
        CacheReader.open(out) as reader,
        pytest.raises(CacheError, match="field neighbour of scan 08/000000"),
    ):
        reader.read(3, ASKED)


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("rows", (10_000, 10_001), "thinned_row beyond the 200 raw points"),
        ("rows", (1, 1), "thinned_row names a point twice"),
        ("apart", (-9_000, 0), "a neighbour beyond the"),
        ("answers", (9_000, 0), "nearest_thinned beyond the"),
    ],
)
def test_values_that_cannot_be_are_named(
    raw: Path,
    tmp_path: Path,
    *,
    name: str,
    values: tuple[int, int],
    words: str,
) -> None:
    def wrong(found: ThinnedScan) -> ThinnedScan:
        getattr(found, name)[..., :2] = values
        return found

    out = tmp_path / "semkitti"
    prepare_changed(list_semkitti(raw, sequences=["08"]), out, wrong)
    damages = verify(out, Silent()).damages
    assert {damage.kind for damage in damages} == {"inconsistent"}
    assert all(words in damage.text for damage in damages), [d.text for d in damages]


def test_a_plan_of_the_cache_asks_for_what_it_holds(raw: Path, tmp_path: Path) -> None:
    out, listing = tmp_path / "semkitti", list_semkitti(raw)
    prepare(listing, out, INLINE, Silent())
    for kept in (listing, with_thinned(listing)):
        prepare(kept, out, INLINE, Silent())
        manifest = load_manifest(Layout(root=out))
        again = list_again(raw, manifest, version=None, progress=Silent())
        assert again.info == kept.info == manifest.info


def test_the_command_asks_for_it(raw: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    line = ["prepare", "semkitti", "--root", str(raw), "--cache", str(cache), "--workers", "0"]
    assert CliRunner().invoke(app, [*line, "--neighbours"]).exit_code == 0
    assert_holds(cache / "semkitti")
    shown = CliRunner().invoke(app, ["inspect", "--cache", str(cache)])
    assert "nearest_thinned" in shown.stdout


def test_added_sweeps_and_neighbours_are_refused_together(tmp_path: Path) -> None:
    root = NuscenesFolder(tmp_path / "nus", samples=2, sweeps=2).write()
    line = ["prepare", "nuscenes", "--root", str(root), "--cache", str(tmp_path / "cache")]
    said = CliRunner().invoke(app, [*line, "--sweeps", "2", "--neighbours"])
    assert said.exit_code == 1
    assert "--neighbours with --sweeps 2" in said.output
    assert not (tmp_path / "cache").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_store_gets_the_bytes_of_a_folder(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASS2D_LOCAL_CACHE", str(tmp_path / "disk"))
    listing, far = with_thinned(list_semkitti(raw)), "memory://far-thinned/semkitti"
    fs = fsspec.filesystem("memory")
    prepare(list_semkitti(raw), far, INLINE, Silent())
    assert prepare(listing, far, INLINE, Silent()).written_shards == 3
    prepare(listing, tmp_path / "semkitti", INLINE, Silent())
    stored = {
        name.removeprefix("/far-thinned/semkitti/"): fs.cat_file(name)
        for name in fs.find("/far-thinned/semkitti")
        if ".zarr/" in name
    }
    assert stored == shards(tmp_path / "semkitti")
    with CacheReader.open("memory://far-thinned") as there, CacheReader.open(tmp_path) as here:
        for place in range(len(here.scans)):
            found, expected = (reader.read(place, ASKED).thinned for reader in (there, here))
            assert found is not None
            assert expected is not None
            assert np.array_equal(found.apart, expected.apart)
    fs.rm("/far-thinned", recursive=True)
