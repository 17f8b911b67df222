"""`pass2d view` in Rerun: the recording is opened again and looked at; without Rerun one line."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from cache_samples import sample_info, write_sample_cache
from typer.testing import CliRunner

from pass2d.cli import app
from pass2d.common.errors import ConfigError, DataError
from pass2d.train.viewing.recording import recording
from pass2d.train.viewing.scan import ViewItem, ViewScan, ViewSet, one_sequence, with_prediction

PROJECT = str(Path(__file__).resolve().parents[1])
SET = ViewSet(title="x", table=sample_info().labels, signal_name="remission", n_cameras=1, items=())


def item(frame: int, sequence: str = "08") -> ViewItem:
    return ViewItem(
        name=f"{sequence}/{frame:06d}",
        sequence=sequence,
        frame_index=frame,
        token="",
        points=None,
        load=lambda: scan(frame),
    )


def scan(frame: int, *, n: int = 50) -> ViewScan:
    rng = np.random.default_rng(frame)
    return ViewScan(
        name=f"08/{frame:06d}",
        frame_index=frame,
        time_s=100 + frame / 10,
        xyz=rng.normal(0, 9, (3, n)).astype(np.float32),
        signal=rng.uniform(0, 1, n).astype(np.float32),
        truth=rng.integers(0, 5, n).astype(np.uint8),
    )


def rows(path: Path) -> dict[str, list[dict]]:
    """Rows of the file by entity, as plain data."""
    reader = pytest.importorskip("rerun.chunk").RrdReader(path)
    found: dict[str, list[dict]] = {}
    for chunk in reader.stream().to_chunks():
        batch = chunk.to_record_batch()
        # pyarrow makes no Python object of nanoseconds.
        columns = {
            name: column.cast(pa.int64()) if pa.types.is_temporal(column.type) else column
            for name, column in zip(batch.schema.names, batch.columns, strict=True)
        }
        table = pa.table(columns).to_pylist()
        found.setdefault(str(chunk.entity_path).lstrip("/"), []).extend(table)
    return found


def test_recording_opens_again_with_entities_times_and_classes(tmp_path: Path) -> None:
    pytest.importorskip("rerun")
    write_sample_cache(tmp_path / "cache", n_scans=3, sequences=("00", "08"), n_points=300)
    labels = tmp_path / "labels"
    labels.mkdir()
    words = ["view", "--cache", str(tmp_path / "cache"), "--scans", "0:2"]
    from pass2d.cache.reader import CacheReader

    with CacheReader.open(tmp_path / "cache") as reader:
        counts = [int(reader.scans.n_raw[p]) for p in reader.select(split="val")]
    (labels / "000000.label").write_bytes(np.full(counts[0], 40, np.uint32).tobytes())
    np.save(labels / "000000_confidence.npy", np.ones(counts[0], np.float32))
    out = tmp_path / "x.rrd"
    words += ["--predictions", str(labels), "--save", str(out)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "labels", "x.rrd"]
    found = rows(out)
    every = {"ground_truth", "prediction", "error", "confidence"}
    assert {f"world/{name}" for name in every} <= found.keys()
    assert {f"camera0/{name}" for name in (*every, "image")} <= found.keys()
    truth = [row for row in found["world/ground_truth"] if row.get("Points3D:positions")]
    assert [len(row["Points3D:positions"]) for row in truth] == counts[:2]
    assert [row["frame_index"] for row in truth] == [0, 1]
    prediction = [row for row in found["world/prediction"] if row.get("Points3D:class_ids")]
    assert [set(row["Points3D:class_ids"]) for row in prediction] == [{1}]  # road, one scan
    cleared = [row for row in found["world/prediction"] if row.get("Clear:is_recursive")]
    assert [row["frame_index"] for row in cleared] == [1]  # the second scan has none
    named = [row for row in found["world/error"] if row.get("AnnotationContext:context")]
    assert len(named) == 1


def test_time_runs_from_the_first_scan(tmp_path: Path) -> None:
    pytest.importorskip("rerun")
    items = [item(4), item(9)]
    with recording(SET, items, tmp_path / "x.rrd") as log:
        shown = list(log.passing(one.load() for one in items))
    assert [s.name for s in shown] == ["08/000004", "08/000009"]
    truth = [r for r in rows(tmp_path / "x.rrd")["world/ground_truth"] if "time" in r]
    assert [row["frame_index"] for row in truth] == [4, 9]
    assert [row["time"] / 1e9 for row in truth] == pytest.approx([0, 0.5])


def test_there_is_a_tab_for_each_colouring_that_some_scan_has(tmp_path: Path) -> None:
    pytest.importorskip("rerun")
    bare = replace(scan(0), truth=None)
    with recording(SET, [item(0), item(1)], tmp_path / "x.rrd") as log:
        for shown, tabs in (
            (bare, {"signal", "height"}),
            (scan(1), {"signal", "height", "ground_truth"}),
        ):
            log.log(shown)
            assert {tab.name for tab in log.blueprint().root_container.contents} == {
                name.replace("_", " ") for name in tabs
            }


def test_file_that_is_not_completed_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("rerun")
    target = tmp_path / "x.rrd"
    target.write_bytes(b"old")

    def scans():
        yield scan(0)
        yield with_prediction(scan(1), np.zeros(7, np.uint8), None)

    with (
        pytest.raises(DataError, match="has 50 points"),
        recording(SET, [item(0)], target) as log,
    ):
        list(log.passing(scans()))
    assert [p.name for p in tmp_path.iterdir()] == ["x.rrd"]
    assert target.read_bytes() == b"old"
    with (
        pytest.raises(DataError, match="could not be written"),
        recording(SET, [item(0)], tmp_path / "no" / "x.rrd"),
    ):
        pass


def test_recording_is_given_up_when_a_picture_fails(tmp_path: Path) -> None:
    pytest.importorskip("rerun")
    write_sample_cache(tmp_path / "cache", n_scans=2, sequences=("08",), n_points=100)
    (tmp_path / "x.rrd").write_bytes(b"old")
    words = ["view", "--cache", str(tmp_path / "cache"), "--png", str(tmp_path / "png")]
    assert CliRunner().invoke(app, [*words, "--scans", ":"]).exit_code == 0
    *_, last = sorted((tmp_path / "png").rglob("*.png"))
    last.unlink()
    last.mkdir()
    result = CliRunner().invoke(app, [*words, "--scans", ":", "--save", str(tmp_path / "x.rrd")])
    assert result.exit_code == 1
    assert f"{last}: the picture could not be written" in result.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "png", "x.rrd"]
    assert (tmp_path / "x.rrd").read_bytes() == b"old"


def test_full_disk_is_one_line_and_no_hang(tmp_path: Path) -> None:
    pytest.importorskip("rerun")
    write_sample_cache(tmp_path / "cache", n_scans=3, sequences=("08",), n_points=3000)
    code = (
        "import resource, signal, sys, pass2d.cli as cli\n"
        "import pass2d.train.viewing.recording as recording\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # as a full disk\n"
        "recording.FLUSH_S = recording.FOOTER_S = 0.2\n"
        "sys.argv[1:] = ['view', '--cache', 'cache', '--save', 'x.rrd', '--scans', ':']\n"
        "cli.main()"
    )
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {PROJECT!r})\n{code}"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 1
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert error.startswith(f"error: {tmp_path / 'x.rrd'}: the recording could not be written")
    assert "Traceback" not in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["cache"]


def test_window_without_a_display_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rerun")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(ConfigError, match=r"save=FILE\.rrd"), recording(SET, [item(0)], None):
        pass


@pytest.mark.parametrize("failing", ["spawn", "flush"])
def test_window_that_does_not_open_is_one_line(
    monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    rr = pytest.importorskip("rerun")

    class Stream(rr.RecordingStream):
        def spawn(self) -> None:
            if failing == "spawn":
                raise RuntimeError("no\nviewer")

        def flush(self) -> None:
            raise RuntimeError("no\nviewer")

    monkeypatch.setenv("DISPLAY", ":99")
    monkeypatch.setattr(rr, "RecordingStream", Stream)
    monkeypatch.setenv("PATH", "/usr/bin")
    with (
        pytest.raises(ConfigError, match=r"\(no viewer\)\. `save="),
        recording(SET, [item(0)], None),
    ):
        pass
    assert str(Path(sys.executable).parent) in os.environ["PATH"].split(os.pathsep)


def test_without_rerun_one_line_names_the_command_and_what_needs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sample_cache(tmp_path / "cache", n_scans=1, sequences=("08",), n_points=100)
    monkeypatch.setitem(sys.modules, "rerun", None)
    for words in ([], ["--save", str(tmp_path / "x.rrd")]):
        result = CliRunner().invoke(app, ["view", "--cache", str(tmp_path / "cache"), *words])
        assert result.exit_code == 1
        (line,) = result.stderr.splitlines()
        assert "pip install 'pass2d[view]'" in line
        assert "--png" in line
        assert "--html" in line
    page = CliRunner().invoke(
        app, ["view", "--cache", str(tmp_path / "cache"), "--html", str(tmp_path / "p.html")]
    )
    assert page.exit_code == 0, page.output


def test_one_sequence_is_recorded() -> None:
    items = [item(0, "00"), item(1, "00"), item(0, "08")]
    assert [i.name for i in one_sequence(items)] == ["00/000000", "00/000001"]
