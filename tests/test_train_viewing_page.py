"""The page of `pass2d view --html`: what it holds, and what a real browser makes of it."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import browser, look
from cache_samples import sample_info
from PIL import Image
from pipeline_files import write_sequence
from typer.testing import CliRunner

from pass2d.cache.motion import with_moving_classes
from pass2d.cli import app
from pass2d.common.errors import DataError
from pass2d.common.progress import Silent
from pass2d.pipeline.datasets.semkitti import list_semkitti, semkitti_table
from pass2d.pipeline.prepare import prepare
from pass2d.pipeline.run.options import PrepareConfig
from pass2d.train.drawing.legend import ERRORS, IGNORED_RGB
from pass2d.train.viewing.page import scan_arrays, write_view_page
from pass2d.train.viewing.scan import ViewCamera, ViewScan, ViewSet

INLINE = PrepareConfig(workers=0)
TABLE = sample_info().labels
SET = ViewSet(title="<test> & co", table=TABLE, signal_name="remission", n_cameras=1, items=())


def scan(*, name: str = "08/000000", seed: int = 0, predicted: bool = True) -> ViewScan:
    """A wall of each class side by side before the eye; every fifth point predicted wrongly."""
    rng = np.random.default_rng(seed)
    n = 6000
    truth = rng.integers(0, 5, n).astype(np.uint8)
    y = (truth - 2.0) * 6 + rng.uniform(-2.5, 2.5, n)
    xyz = np.stack([np.full(n, 12.0), y, rng.uniform(-2, 3, n)]).astype(np.float32)
    answer = truth.copy()
    answer[::5] = 4
    seen = np.arange(0, n, 3)
    pixel = np.stack([rng.integers(0, 90, len(seen)), rng.integers(0, 300, len(seen))])
    return ViewScan(
        name=name,
        frame_index=0,
        time_s=1.5,
        xyz=xyz,
        signal=rng.uniform(0, 1, n).astype(np.float32),
        truth=truth,
        predicted=answer if predicted else None,
        confidence=rng.uniform(0, 1, n).astype(np.float32) if predicted else None,
        cameras=(
            ViewCamera(
                image=np.full((90, 300, 3), 60, np.uint8),
                pixel_rc=pixel.astype(np.uint16),
                point_index=seen,
            ),
        ),
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "a page.html"
    write_view_page([scan(), scan(name="08/000001", seed=1, predicted=False)], path, SET)
    return path


def part(page: Path, name: str) -> str:
    match = re.search(rf'<script type="text/plain" id="{name}">(.*?)</script>', page.read_text())
    assert match is not None
    return match[1]


def test_page_holds_every_point_of_the_scan(page: Path) -> None:
    meta = json.loads(part(page, "meta"))
    about, data = meta["scans"][0], base64.b64decode(part(page, "scan0"))
    arrays = {
        a["name"]: np.frombuffer(data, f"<{a['type']}", a["length"], a["offset"])
        for a in about["arrays"]
    }
    given = scan()
    xyz = arrays["xyz"].reshape(-1, 3) * about["metres"]
    assert about["metres"] <= 1e-3
    np.testing.assert_allclose(xyz, given.xyz.T, atol=0.51e-3)
    np.testing.assert_array_equal(arrays["truth"], given.truth)
    np.testing.assert_array_equal(arrays["predicted"], given.predicted)
    np.testing.assert_allclose(arrays["confidence"] / 255, given.confidence, atol=0.002)
    places = [(a["offset"], np.dtype(a["type"]).itemsize) for a in about["arrays"]]
    assert all(offset % size == 0 for offset, size in places)  # browsers ask for it
    photo = Image.open(io.BytesIO(base64.b64decode(part(page, "photo0_0"))))
    assert photo.size == (300, 90)
    assert meta["scans"][1]["name"] == "08/000001"


def test_points_without_a_place_are_left_out_with_their_pixels() -> None:
    xyz = np.array([[1, np.nan, 3, 9e9], [0, 0, 0, 0], [0, 0, 0, 0]], np.float32)
    camera = ViewCamera(
        image=np.zeros((4, 4, 3), np.uint8),
        pixel_rc=np.array([[0, 1, 2], [3, 2, 1]], np.uint16),
        point_index=np.array([0, 1, 2]),
    )
    arrays = scan_arrays(
        ViewScan(
            name="x",
            frame_index=0,
            time_s=None,
            xyz=xyz,
            signal=np.array([0, 1, np.nan, 3], np.float32),
            truth=np.array([1, 2, 3, 4], np.uint8),
            cameras=(camera,),
        )
    )
    assert arrays["truth"].tolist() == [1, 3]
    assert arrays["seen0"].tolist() == [1, 0]  # the far one first
    assert arrays["pixel0"].tolist() == [[2, 1], [0, 3]]


def test_page_names_no_address_and_replaces_only_when_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.html"
    path.write_text("old")

    def failing():
        yield scan()
        raise DataError("the second scan is damaged")

    with pytest.raises(DataError, match="second"):
        write_view_page(failing(), path, SET)
    assert [p.name for p in tmp_path.iterdir()] == ["x.html"]
    assert path.read_text() == "old"
    write_view_page([scan()], path, SET)
    text = path.read_text()
    assert "http:" not in text
    assert "https:" not in text
    assert "default-src 'none'" in text
    assert "&lt;test&gt; &amp; co" in text
    with pytest.raises(DataError, match="could not be written"):
        write_view_page([scan()], tmp_path / "no" / "x.html", SET)


def test_scan_without_points_makes_a_page(tmp_path: Path) -> None:
    empty = ViewScan(
        name="e",
        frame_index=0,
        time_s=1532402927.6,
        xyz=np.zeros((3, 0), np.float32),
        signal=np.zeros(0, np.float32),
    )
    write_view_page([empty], tmp_path / "e.html", SET)
    (shown,) = json.loads(part(tmp_path / "e.html", "meta"))["scans"]
    assert (shown["n"], shown["facts"]) == (0, "0 points, 2018-07-24 03:28:47 UTC")


HOSTILE = ("unlabeled", "a<!--<script>b", "</script><b>&amp;", "\u2028'\"\\udcff", "x" * 5000)
"""Names of classes: the first made a browser take the rest of the page for a comment."""


def test_names_from_data_never_leave_their_script_element(tmp_path: Path) -> None:
    path = tmp_path / "h.html"
    of = replace(SET, title=HOSTILE[1], table=replace(TABLE, names=HOSTILE))
    write_view_page([scan(name=HOSTILE[1]), scan(name=HOSTILE[2])], path, of)
    text = part(path, "meta")
    assert "<" not in text
    meta = json.loads(text)
    assert meta["classes"]["names"] == list(HOSTILE)
    assert [about["name"] for about in meta["scans"]] == list(HOSTILE[1:3])
    write_view_page([scan(), scan()], tmp_path / "plain.html", SET)
    assert path.read_text().count("<") == (tmp_path / "plain.html").read_text().count("<")


@pytest.mark.browser
def test_browser_shows_hostile_names_as_text(tmp_path: Path) -> None:
    of = replace(SET, title=HOSTILE[1], table=replace(TABLE, names=HOSTILE))
    write_view_page([scan(name=HOSTILE[1]), scan(name=HOSTILE[2])], tmp_path / "h.html", of)
    shown = look(tmp_path / "h.html", tmp_path, address="color=truth&gl=off")
    assert shown.console == ()
    assert shown.body["points"] == "6000"
    assert min(shown.count(color) for color in TABLE.colors_rgb[1:]) > 400
    assert "a&lt;!--&lt;script&gt;b" in shown.text.split('id="name"')[1][:60]


@pytest.mark.browser
def test_browser_shows_ground_truth_in_3d(page: Path, tmp_path: Path) -> None:
    shown = look(page, tmp_path, address="color=truth&gl=on")
    assert shown.console == ()
    assert shown.requests == ()
    assert shown.body == {
        "gl": "webgl",
        "scan": "0",
        "color": "truth",
        "points": "6000",
        "camera": "0",
        "frames": shown.body["frames"],
    }
    for color in (IGNORED_RGB, *TABLE.colors_rgb[1:]):
        assert shown.count(color) > 400, color  # points, not only the legend's 13 x 13 pixels
    assert shown.count(ERRORS.colors_rgb[2]) == 0
    for name in ("Ground truth", "Prediction", "Error", "Confidence", "Remission", "Height"):
        assert f">{name}</button>" in shown.text
    # From behind: +y, where the higher classes stand, is on the left.
    columns = [
        np.flatnonzero((shown.pixels[:480, :690] == c).all(axis=2).any(axis=0)).mean()
        for c in TABLE.colors_rgb[1:]
    ]
    assert columns == sorted(columns, reverse=True)


def test_nuscenes_is_seen_from_behind_too(tmp_path: Path) -> None:
    kitti = scan()
    x, y, z = kitti.xyz
    turned = replace(kitti, xyz=np.stack([-y, x, z]))  # x to the right, y ahead
    write_view_page([turned], tmp_path / "n.html", replace(SET, forward_axis="y"))
    write_view_page([kitti], tmp_path / "k.html", SET)
    seen = [
        look(tmp_path / name, tmp_path, address="color=truth&gl=off")
        for name in ("n.html", "k.html")
    ]
    assert all(shown.console == () for shown in seen)
    differ = (seen[0].pixels[50:480, :690] != seen[1].pixels[50:480, :690]).any(axis=2)
    assert differ.mean() < 0.01  # but for the last bit of cos and sin


def test_address_switches_the_colour(page: Path, tmp_path: Path) -> None:
    shown = look(page, tmp_path, address="color=error")
    assert shown.console == ()
    assert shown.body["color"] == "error"
    right, wrong = (shown.count(color) for color in ERRORS.colors_rgb[1:])
    assert right > wrong > 400
    assert all(shown.count(color) == 0 for color in TABLE.colors_rgb[1:])


def test_second_scan_without_webgl_and_without_predictions(page: Path, tmp_path: Path) -> None:
    shown = look(page, tmp_path, address="color=prediction&scan=1&gl=off&hide=car,tree")
    assert shown.console == ()
    assert (shown.body["gl"], shown.body["scan"], shown.body["color"]) == ("canvas", "1", "truth")
    road, car, building, tree = (shown.count(color) for color in TABLE.colors_rgb[1:])
    assert min(road, building) > 400
    assert max(car, tree) < 200  # the legend alone


PHONE = """<!doctype html><body><iframe id="f" style="width:390px;height:844px"></iframe><script>
const f = document.getElementById("f");
f.onload = () => requestAnimationFrame(() => {
  const shown = [...f.contentDocument.querySelectorAll("body *")].filter((e) => e.offsetParent);
  document.body.dataset.right = Math.max(...shown.map((e) => e.getBoundingClientRect().right));
  document.body.dataset.count = shown.length;
});
f.srcdoc = %s;
</script></body>"""


def test_nothing_is_cut_off_on_a_phone(page: Path, tmp_path: Path) -> None:
    frame = tmp_path / "phone.html"
    frame.write_text(PHONE % json.dumps(page.read_text()).replace("</", "<\\/"))
    shown = look(frame, tmp_path)
    assert int(shown.body["count"]) > 30
    assert float(shown.body["right"]) <= 390


def test_without_a_browser_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("PASS2D_BROWSER", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install chromium"):
        browser()


@pytest.mark.browser
def test_browser_shows_what_moves_scan_by_scan(tmp_path: Path) -> None:
    """`view --cache --moving --html`: 26 classes, a timeline of all scans, each with its own."""
    folder = write_sequence(tmp_path / "raw", "08", (0, 1, 2), n=4000, images=False)
    lines = "".join(f"1 0 0 0 0 1 0 0 0 0 1 {2 * place}\n" for place in range(3))
    (folder / "poses.txt").write_text(lines)
    (folder / "labels/000001.label").write_bytes(np.full(4000, 252, "<u4").tobytes())
    (folder / "labels/000002.label").write_bytes(np.full(4000, 10, "<u4").tobytes())
    prepare(list_semkitti(tmp_path / "raw"), tmp_path / "semkitti", INLINE, Silent())
    words = ["view", "--cache", str(tmp_path), "--no-checkpoint", "--moving", "--scans", "0:3"]
    result = CliRunner().invoke(app, [*words, "--html", str(tmp_path / "m.html")])
    assert result.exit_code == 0, result.output
    table = with_moving_classes(semkitti_table().info).labels
    still, moving = (table.colors_rgb[table.names.index(n)] for n in ("car", "moving-car"))
    for scan_index, (seen, unseen) in ((1, (moving, still)), (2, (still, moving))):
        address = f"color=truth&gl=off&scan={scan_index}"
        shown = look(tmp_path / "m.html", tmp_path, address=address)
        assert shown.console == ()
        assert (shown.body["scan"], shown.body["color"]) == (str(scan_index), "truth")
        assert shown.count(seen) > 400
        assert shown.count(unseen) < 200  # the legend alone
        assert "moving-car" in shown.text
        assert f"08/{scan_index:06d}" in shown.text.split('id="name"')[1][:60]
