"""`--nproc` and torchrun: how several processes end, whatever ends them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from cache_samples import write_sample_cache
from train_samples import tiny_recipe
from typer.testing import CliRunner

from pass2d.cli import app
from pass2d.train.checkpoints.checkpoint import load_checkpoint
from pass2d.train.distributed.launch import LOST_CODE, Outcome, _outcome
from pass2d.train.distributed.process_group import choose_device
from pass2d.train.recipes.recipe import to_toml

RUN = [sys.executable, "-c", "from pass2d.cli import main; main()"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
ROOT = Path(__file__).resolve().parents[1]
needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc")
BOUND_S = 120
"""No test waits longer: a hang would be half an hour."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cache of 3 training and 3 validation scans, and an endless recipe."""
    root = tmp_path_factory.mktemp("many")
    write_sample_cache(root / "cache", n_scans=3, sequences=("00", "08"), n_points=300)
    recipe = tiny_recipe("batch_size=1", "epochs=100000", "validation.every_epochs=0")
    (root / "endless.toml").write_text(to_toml(recipe))
    return root


def arguments(place: Path, run_root: Path, *more: str) -> list[str]:
    options = ["--cache", str(place / "cache"), "--recipe", str(place / "endless.toml")]
    return ["train", *options, "--run", str(run_root), *more]


def members(starter: int) -> dict[int, int]:
    """Process ids by rank of the group that a launcher or torchrun started."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            words = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        rank = next((word[5:] for word in words if word.startswith(b"RANK=")), b"")
        if parent == starter and rank:
            found[int(rank)] = int(folder.name)
    return found


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


@contextmanager
def training(command: list[str], *, until: str = "step 2/") -> Iterator[subprocess.Popen[str]]:
    """A process whose log has reached a line; killed if it is there at the end."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stderr is not None
            heard = ""
            for line in process.stderr:
                heard += line
                if until in line:
                    break
            else:
                pytest.fail(heard)
            yield process
        finally:
            process.kill()


def errors(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("error:")]


@needs_proc
@pytest.mark.slow
def test_a_killed_process_ends_the_job_with_one_error(place: Path, tmp_path: Path) -> None:
    """The first one: it holds the store by which all others find each other."""
    victim = 0
    command = [*RUN, *arguments(place, tmp_path / "run", "--nproc", "2")]
    with training(command) as process:
        group = members(process.pid)
        assert sorted(group) == [0, 1]
        os.kill(group[victim], signal.SIGKILL)
        _, said = process.communicate(timeout=BOUND_S)
    assert process.returncode == 1
    assert len(errors(said)) == 1, said
    assert f"process {victim} of 2 was killed by SIGKILL" in errors(said)[0]
    assert "--resume" in errors(said)[0]
    assert "Traceback" not in said
    assert not any(is_alive(pid) for pid in group.values())


@needs_proc
@pytest.mark.slow
def test_ctrl_c_saves_once_and_another_number_of_processes_goes_on(
    place: Path, tmp_path: Path
) -> None:
    command = [*RUN, *arguments(place, tmp_path / "run", "--nproc", "2")]
    with training(command) as process:
        group = members(process.pid)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=BOUND_S)
    assert process.returncode == 130
    for words in ("SIGINT: the processes save", "stopped early by SIGINT"):
        assert said.count(words) == 1, said
    assert "Traceback" not in said
    assert not any(is_alive(pid) for pid in group.values())
    # One process takes up where two stopped, and two more where that one stopped.
    more = ["--resume", "--set", "resume_anyway=true", "--set"]
    position = last_cursor(tmp_path / "run")
    assert position > 0
    epochs = position // 3 + 2
    alone = CliRunner().invoke(app, arguments(place, tmp_path / "run", *more, f"epochs={epochs}"))
    assert alone.exit_code == 0, alone.output
    assert last_cursor(tmp_path / "run") == 3 * epochs
    two = arguments(place, tmp_path / "run", *more, f"epochs={epochs + 2}", "--nproc", "2")
    done = subprocess.run([*RUN, *two], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "1 processes before, 2 now" in done.stderr
    assert last_cursor(tmp_path / "run") == 3 * (epochs + 2)


def last_cursor(run_root: Path) -> int:
    return int(load_checkpoint(run_root / "checkpoints" / "last.safetensors").card.run["cursor"])


@needs_proc
@pytest.mark.slow
def test_a_process_killed_under_torchrun_ends_the_job(place: Path, tmp_path: Path) -> None:
    script = tmp_path / "start.py"
    script.write_text("from pass2d.cli import main\nmain()\n")
    command = [*TORCHRUN, "--nproc-per-node=2", "--", str(script)]
    with training([*command, *arguments(place, tmp_path / "run")]) as process:
        group = members(process.pid)
        os.kill(group[1], signal.SIGKILL)
        _, said = process.communicate(timeout=BOUND_S)
    assert process.returncode == 1
    assert len(errors(said)) <= 1, said
    assert not any(is_alive(pid) for pid in group.values())


@needs_proc
@pytest.mark.slow
def test_a_process_that_hangs_counts_as_lost(place: Path, tmp_path: Path) -> None:
    """Stopped, not killed: its connections stay open, and nothing but its silence tells."""
    more = ("--nproc", "2", "--set", "lost_after_s=3")
    with training([*RUN, *arguments(place, tmp_path / "run", *more)]) as process:
        group = members(process.pid)
        os.kill(group[1], signal.SIGSTOP)
        _, said = process.communicate(timeout=BOUND_S)
    assert process.returncode == 1
    assert len(errors(said)) == 1, said
    assert not any(is_alive(pid) for pid in group.values())


@pytest.mark.slow
def test_what_all_processes_meet_is_said_once(place: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()  # no module of ours: a folder of the user
    for more, expected in (
        (("--set", "nonsense=1"), "unknown key 'nonsense'"),
        (("--device", "cuda:63"), "is one GPU, but 2 processes run here"),
    ):
        command = [*arguments(place, tmp_path / "run", "--nproc", "2", *more)]
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                f"import sys; sys.path.append({str(ROOT)!r})\n{RUN[2]}",
                *command,
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert expected in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_eval_in_two_processes_reports_what_one_reports(place: Path, tmp_path: Path) -> None:
    run_root = tmp_path / "run"
    short = ("--set", "epochs=1")
    assert CliRunner().invoke(app, arguments(place, run_root, *short)).exit_code == 0
    options = ["eval", "--cache", str(place / "cache"), "--votes", "lattice", "--json"]
    options += ["--checkpoint", str(run_root / "checkpoints" / "best.safetensors")]
    alone = CliRunner().invoke(app, options)
    assert alone.exit_code == 0, alone.output
    command = [*RUN, *options, "--nproc", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    reports = [json.loads(text) for text in (alone.stdout, done.stdout)]
    for report in reports:
        for clock in ("seconds", "scans_per_s"):
            report.pop(clock)
    assert reports[0] == reports[1]


def test_fewer_gpus_than_processes_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(Exception, match="4 processes are to run here, but torch sees 2 GPUs"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    assert choose_device("auto") == torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("ended", "code", "words"),
    [
        ({0: 0, 1: 0}, 0, ""),
        ({1: LOST_CODE, 0: -9}, 1, "process 0 of 2 was killed by SIGKILL"),
        ({1: -11, 0: LOST_CODE}, 1, "process 1 of 2 was killed by SIGSEGV"),
        ({0: LOST_CODE, 1: 1}, 1, ""),  # process 1 has said why
        ({0: LOST_CODE, 1: LOST_CODE}, 1, "lost each other"),
        ({0: 130, 1: 130}, 130, ""),
    ],
)
def test_the_exit_codes_tell_who_failed(ended: dict[int, int], code: int, words: str) -> None:
    outcome = _outcome(ended, [], is_cut_off=False)
    assert outcome.code == code
    assert words in outcome.error
    assert bool(outcome.error) == bool(words)
    assert isinstance(outcome, Outcome)
