"""The `pass2d` command from end to end on a tiny synthetic world, and its words on bad input."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from thin_pictures import thin_pictures
from typed import answer, pass2d, refusal

from pass2d.commands.console import clear_errors

HEAVY = ("numpy", "torch", "ray", "zarr", "spconv", "torchvision", "scipy", "pyarrow")
SMALL_NETWORK = ("--set", "network.settings.hidden=8", "--set", "epochs=1", "--set", "batch_size=1")
WRITTEN_IDS = {0, 10, 11, 15, 18, 20, 30, 31, 32, 40, 44, 48, 49, 50, 51, 70, 71, 72, 80, 81}
"""Raw ids that SemanticKITTI's server takes, and 0."""
PROJECT = Path(__file__).resolve().parents[1]


def spawn(*words: object, cwd: Path, stdin: int | None = None) -> subprocess.Popen:
    """The command as its own process, as a shell would start it."""
    code = f"import sys; sys.path.insert(0, {str(PROJECT)!r}); from pass2d.cli import main; main()"
    command = [sys.executable, "-c", code, *(str(word) for word in words)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=cwd, stdin=stdin, stdout=pipe, stderr=pipe, text=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """raw/, cache/ and run/ of a tiny world, each made by its command."""
    root = tmp_path_factory.mktemp("world")
    made = answer("prepare", "synth", "--out", root / "raw", "--preset", "tiny", "--workers", 0)
    assert made["scans_written"] == 9
    prepared = answer(
        "prepare", "semkitti", "--root", root / "raw", "--cache", root / "cache", "--workers", 0
    )
    assert (prepared["scans"], prepared["scans_without_label"]) == (9, 3)
    words = ("train", "--cache", root / "cache", "--recipe", "demo", "--run", root / "run")
    with thin_pictures():
        trained = answer(*words, *SMALL_NETWORK)
    assert trained["is_complete"]
    assert trained["steps"] == 3  # three scans of sequence 00, one per step
    return root


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, pass2d.commands.app; "
        f"sys.exit(', '.join({{*{HEAVY}}} & {{*sys.modules}}) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True)


def test_statistics_count_the_points_of_the_label_files(world: Path) -> None:
    counted = answer("stats", "--cache", world / "cache")["splits"]["val"]
    files = sorted((world / "raw" / "sequences" / "08" / "labels").iterdir())
    assert counted["points"]["raw"] == sum(file.stat().st_size // 4 for file in files)


def test_statistics_page_needs_no_network(world: Path) -> None:
    assert pass2d("stats", "--cache", world / "cache", "--html", world / "s.html").exit_code == 0
    page = (world / "s.html").read_text()
    assert "<svg" in page
    assert "http" not in page.replace("http://www.w3.org/", "")


def test_second_prepare_writes_nothing(world: Path) -> None:
    words = ("prepare", "semkitti", "--root", world / "raw", "--cache", world / "cache")
    assert answer(*words, "--plan")["tasks"] == []
    again = answer(*words, "--workers", 0)
    assert (again["written_shards"], again["kept_shards"]) == (0, 12)


def test_evaluation_scores_every_labelled_point(world: Path) -> None:
    best = world / "run" / "checkpoints" / "best.safetensors"
    report = answer("eval", "--cache", world / "cache", "--checkpoint", best)
    labels = [
        np.fromfile(file, np.uint32) & 0xFFFF
        for file in (world / "raw" / "sequences" / "08" / "labels").iterdir()
    ]
    ignored = np.isin(np.concatenate(labels), [0, 1, 52, 99])
    assert report["passes"][0]["official"]["points"] == np.count_nonzero(~ignored)
    assert 0 <= report["miou"] <= 1


def test_prediction_writes_a_known_raw_id_for_every_raw_point(world: Path) -> None:
    best = world / "run" / "checkpoints" / "best.safetensors"
    scans = world / "raw" / "sequences" / "11" / "velodyne"
    out = world / "predictions"
    summary = answer("predict", scans, "--checkpoint", best, "--out", out, "--png")
    assert (summary["scans"], summary["failed"]) == (3, [])
    for file in scans.iterdir():
        ids = np.fromfile(out / f"{file.stem}.label", np.uint32)
        assert len(ids) == file.stat().st_size // 16
        assert set(ids.tolist()) <= WRITTEN_IDS
        assert (out / f"{file.stem}_above.png").read_bytes()[:4] == b"\x89PNG"
    words = ("predict", scans, "--checkpoint", best, "--out", out)
    again = answer(*words, "--png")
    assert (again["scans"], again["kept"]) == (0, 3)
    assert "--overwrite" in refusal(*words)  # without pictures: other settings


@pytest.mark.slow
def test_interrupted_training_saves_and_resumes(world: Path, tmp_path: Path) -> None:
    words = ("train", "--cache", world / "cache", "--recipe", "demo", "--run", tmp_path / "run")
    words = (*words, *SMALL_NETWORK, "--baseline-only", "--set", "validation.every_epochs=0")
    run = spawn(*words, "--set", "epochs=2000", "--set", "log.every_steps=1", cwd=tmp_path)
    assert any("loss" in line for line in run.stderr), "no line of the log came"
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=120)
    assert run.returncode == 130, err
    assert "Traceback" not in err
    assert "--resume" in err
    done = int(out.split(" step")[0].split()[-1])
    shorter = ("--set", f"epochs={done // 3 + 1}", "--set", "resume_anyway=true")
    finished = answer(*words, *shorter, "--resume")
    assert finished["is_complete"]
    assert finished["steps"] == 3 * (done // 3 + 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("prepare", "semkitti", "--root", "missing"), "no such folder"),
        (("prepare", "semkitti", "--root", "empty"), "the folder is empty"),
        (("prepare", "semkitti", "--root", "file"), ": a file"),
        (("prepare", "semkitti", "--root", "raw", "--sequences", "77"), "77"),
        (("prepare", "semkitti", "--root", "raw", "--splits", "trian"), "trian"),
        (("prepare", "semkitti", "--root", "raw", "--cache", "file"), "file"),
        (("prepare", "synth", "--out", "file"), "file"),
        (("prepare", "synth", "--out", "new", "--preset", "huge"), "huge"),
        (("prepare", "semkitti", "--root", "raw", "--workers", "99999"), "at most"),
        (("prepare", "synth", "--out", "new", "--workers", "99999"), "at most"),
        (("train", "--cache", "cache", "--nproc", "99999"), "at most"),
        (("eval", "--cache", "cache", "--nproc", "99999"), "at most"),
        (("cache", "plan", "--root", "raw", "--version", "v1.0-mini"), "SemanticKITTI has none"),
        (("stats", "--cache", "missing"), "missing"),
        (("stats", "--cache", "empty"), "empty"),
        (("stats", "--cache", "cache", "--html", "file"), "ends in .html"),
        (("view", "--cache", "cache", "--html", "file"), "ends in .html"),
        (("eval", "--cache", "cache", "--html", "file"), "ends in .html"),
        (("submit", "--checkpoint", "file", "--out", "file", "--overwrite"), "ends in .zip"),
        (("stats", "--cache", "cache", "--dataset", "nuscenes"), "semkitti"),
        (("train", "--cache", "cache", "--run", "r", "--recipe", "2dpass-smal"), "2dpass-small"),
        (("train", "--cache", "cache", "--run", "r", "--set", "epoch=3"), "epochs"),
        (("train", "--cache", "cache", "--run", "r", "--set", "epochs=many"), "epochs"),
        (("train", "--cache", "cache", "--run", "run"), "--resume"),
        (("eval", "--cache", "cache", "--checkpoint", "missing"), "missing"),
        (("eval", "--cache", "cache", "--checkpoint", "file"), "file"),
        (("predict", "missing", "--checkpoint", "run/checkpoints/best.safetensors"), "missing"),
        (("predict", "empty", "--checkpoint", "run/checkpoints/best.safetensors"), "empty"),
        (("import", "file", "--out", "x.safetensors"), "file"),
        (("doctor", "--dataset", "semkitti"), "--cache"),
    ],
)
def test_bad_input_gets_one_line(
    world: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    (world / "empty").mkdir(exist_ok=True)
    (world / "file").write_text("not what you want")
    monkeypatch.chdir(world)
    assert said in refusal(*words)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has"),
        RuntimeError("[enforce fail] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
        MemoryError(),
    ],
)
def test_want_of_memory_is_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended, clear_errors():
        raise error
    assert ended.value.exit_code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: out of memory: ")
    assert "enforce" not in line
    assert "batch_size" in line


def test_a_fault_of_the_gpu_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended, clear_errors():
        raise torch.AcceleratorError("CUDA error: unspecified launch failure\nCompile with")
    assert ended.value.exit_code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: the GPU failed: CUDA error: unspecified launch failure. ")
    assert "pass2d doctor" in line


def test_other_errors_keep_their_traceback() -> None:
    with pytest.raises(RuntimeError, match="a bug"), clear_errors():
        raise RuntimeError("a bug")


@pytest.mark.slow
@pytest.mark.parametrize("words", ["eval --cache {0} --checkpoint {0}", "cache status --cache {0}"])
def test_a_deleted_current_folder_is_one_line(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Absolute paths do not help: MKL ended the process."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    said = refusal(*words.format(tmp_path / "there").split())
    assert "the current folder: No such file or directory: it is gone, change to" in said


def test_closed_outputs_are_no_error(world: Path) -> None:
    command = shlex.join(
        [sys.executable, "-m", "pass2d.cli", "cache", "verify", "--cache", f"{world}/cache"]
    )
    for closed in ("2>&-", ">&- 2>&-"):
        subprocess.run(["sh", "-c", f"{command} {closed}"], cwd=PROJECT, check=True)


def test_truncated_scan_fails_alone_and_is_named(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "raw", tmp_path / "raw")
    broken = tmp_path / "raw" / "sequences" / "00" / "velodyne" / "000001.bin"
    os.truncate(broken, 1000)
    words = ("prepare", "semkitti", "--root", tmp_path / "raw")
    checked = pass2d(*words, "--check")
    assert checked.exit_code == 1
    assert f"error: {broken}: found 1000 bytes" in checked.stdout
    prepared = pass2d(*words, "--cache", tmp_path / "cache", "--workers", 0)
    assert prepared.exit_code == 1
    assert str(broken) in prepared.stdout
    assert answer("stats", "--cache", tmp_path / "cache")["splits"]["train"]["scans"] == 2
