"""Ray lost, silent or not to be had: one line, nothing is left of it, and the run goes on."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socketserver
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from heard import Heard
from pipeline_files import shards, write_sequence
from prepare_faults import go, start_driver
from waiting import ends, goes_on

from pass2d.common.errors import CacheError, ConfigError
from pass2d.common.progress import Silent
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import prepare
from pass2d.pipeline.run import ray_guard, ray_processes
from pass2d.pipeline.run.options import PrepareConfig
from pass2d.pipeline.run.ray_processes import RayProcesses, end_marked, ray_folder
from pass2d.pipeline.run.ray_runner import connected

SLEEP = "import time; print(flush=True); time.sleep(600)"
ORPHAN = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEP!r}])"
ON_RAY = PrepareConfig(workers=2, shard_scans=1)
FAKE_DRIVER = """
import os, sys, time
sys.path.append({root!r})
from multiprocessing.connection import Connection
from pass2d.pipeline.run.ray_driver import Imported, Lost, Started
channel = Connection(int(sys.argv[1]))
order = channel.recv()
channel.send(Imported())
{rest}
"""


@contextlib.contextmanager
def sleeper(code: str = SLEEP, *, mark: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """A process that has printed a line, with a mark in its environment."""
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "MARK": mark}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def test_only_marked_processes_end_also_those_that_lost_their_parent() -> None:
    with sleeper(mark="other") as other, sleeper(mark="ours") as ours:
        with sleeper(ORPHAN, mark="ours") as parent:
            parent.wait(60)  # its child lives on
            assert len(end_marked(b"MARK=ours")) == 2
        assert ours.wait(60) == -signal.SIGKILL
        assert other.poll() is None


def fake_driver(rest: str) -> str:
    """A program in the place of the driver, so that no Ray is needed."""
    return FAKE_DRIVER.format(root=str(ray_processes._ROOT), rest=rest)


@pytest.mark.parametrize("end", ["the run ends", "the driver ends", "the guard is killed"])
def test_nothing_of_a_driver_is_left(tmp_path: Path, end: str) -> None:
    driver = fake_driver(
        "import subprocess\n"
        "child = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "pids = [subprocess.Popen(child, start_new_session=True).pid for _ in range(2)]\n"
        "channel.send([os.getpid(), *pids])\n"
        "channel.recv()\n"
    )
    folder = tmp_path / "ray"
    folder.mkdir()
    processes = RayProcesses(folder, driver=driver)
    processes.channel.send("connect")
    processes.channel.recv()
    pids = processes.channel.recv()
    assert all(ray_guard.is_running(pid) for pid in pids)
    if end == "the driver ends":
        processes.channel.send("end")
        with pytest.raises(EOFError):
            processes.channel.recv()
    elif end == "the guard is killed":
        processes._guard.kill()
    processes.end()
    assert not any(ray_guard.is_running(pid) for pid in pids)
    assert not folder.exists()
    processes.channel.close()


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("time.sleep(600)", "no heartbeat for 1 s"),
        ("sys.exit('a crash')", "its driver has ended"),
        ("channel.send(Lost(reason='no memory'))", "no memory"),
    ],
)
def test_a_ray_that_does_not_start_is_one_error(rest: str, said: str) -> None:
    with (
        pytest.raises(CacheError, match=rf"^Ray does not start \({said}\)") as caught,
        connected(PrepareConfig(workers=1), driver=fake_driver(rest), start_s=1),
    ):
        pass
    assert "`workers=0`" in str(caught.value)
    log = Path(str(caught.value).rpartition(" ")[2])
    assert "driver.log" in log.read_text()
    log.unlink()


def lost(heard: Heard) -> list[str]:
    return [line for line in heard.lines if line.startswith("Ray is lost")]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    for sequence in ("00", "08"):
        write_sequence(tmp_path / "raw", sequence, (0, 1, 2), n=3000)
    prepare(
        list_semkitti(tmp_path / "raw"),
        tmp_path / "inline",
        PrepareConfig(workers=0, shard_scans=1),
        Silent(),
    )
    return tmp_path / "raw"


def test_a_run_whose_ray_is_lost_goes_on_without_it(raw: Path, tmp_path: Path) -> None:
    driver = fake_driver(
        "channel.send(Started(cpus=2)); channel.recv(); channel.recv(); sys.exit()"
    )
    heard = Heard()
    with connected(ON_RAY, driver=driver):
        summary = prepare(list_semkitti(raw), tmp_path / "out", ON_RAY, heard)
    assert (summary.scans, summary.failed) == (6, ())
    assert shards(tmp_path / "out") == shards(tmp_path / "inline")
    (line,) = lost(heard)
    assert "as by `workers=0`" in line
    Path(line.rpartition(" ")[2]).unlink()


LONG = pytest.mark.skipif("PASS2D_LONG_TESTS" not in os.environ, reason="PASS2D_LONG_TESTS unset")


@pytest.mark.ray
def test_ray_starts_for_who_has_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/proc/none")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    with connected(PrepareConfig(workers=1)) as session:
        assert session.cpus == 1


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "number"),
    [
        ("raylet", signal.SIGKILL),
        pytest.param("gcs_server", signal.SIGKILL, marks=LONG),
        pytest.param("gcs_server", signal.SIGSTOP, marks=LONG),
        pytest.param("raylet", signal.SIGSTOP, marks=LONG),
    ],
)
def test_a_part_of_ray_that_is_killed(
    raw: Path, tmp_path: Path, victim: str, number: signal.Signals
) -> None:
    below: dict[int, str] = {}

    def kill(count: int) -> None:
        if count > 1:
            return
        guard = next(pid for pid in ray_guard.children(os.getpid()) if _is_guard(pid))
        (driver,) = ray_guard.children(guard)
        below.update(ray_guard.children(driver))
        os.kill(next(pid for pid, name in below.items() if name == victim), number)

    heard = Heard(on_advance=kill)
    summary = prepare(list_semkitti(raw), tmp_path / "out", ON_RAY, heard)
    assert (summary.scans, summary.failed) == (6, ())
    assert shards(tmp_path / "out") == shards(tmp_path / "inline")
    assert not any(ray_guard.is_running(pid) for pid in below)
    for line in lost(heard):
        Path(line.rpartition(" ")[2]).unlink()


def _is_guard(pid: int) -> bool:
    return b"ray_guard.py" in Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_that_is_killed_leaves_no_process(raw: Path, tmp_path: Path) -> None:
    process = start_driver(raw, tmp_path / "out", workers=1)
    go(process)
    started: dict[int, str] = {}
    while "raylet" not in started.values():
        assert goes_on(process)
        for guard in ray_guard.children(process.pid):
            started[guard] = "guard"
            for driver in ray_guard.children(guard):
                started |= {driver: "driver", **ray_guard.children(driver)}
    process.kill()
    for pid in started:
        assert ends(pid), f"{started[pid]} still runs"
    process.communicate()


@pytest.mark.parametrize("name", ["", "here", "missing", "x" * 200, "/proc"])
def test_ray_gets_a_folder_that_its_sockets_can_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    short = Path(tempfile.mkdtemp(dir="/tmp"))
    monkeypatch.chdir(short)
    (short / "here").mkdir()
    (short / ("x" * 200)).mkdir()
    monkeypatch.setenv("TMPDIR", name)
    monkeypatch.setattr(tempfile, "tempdir", None)
    folder = ray_folder()
    assert folder.parent == (short / "here" if name == "here" else Path("/tmp"))
    environment = ray_processes._environment("A=b", is_ours=True)
    assert Path(environment.get("TMPDIR", "/tmp")).is_absolute()
    folder.rmdir()
    shutil.rmtree(short)


def test_no_folder_for_ray_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> str:
        raise OSError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(CacheError, match=r"/tmp: Permission denied.*`workers=0`"):
        ray_folder()


class Web(socketserver.StreamRequestHandler):
    """Answers as a web server does that understands nothing."""

    def handle(self) -> None:
        self.rfile.readline()
        self.wfile.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_an_address_where_no_ray_answers_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Web) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
            with (
                pytest.raises(
                    CacheError, match=r"cannot connect to .*what listens there is not Ray"
                ),
                connected(PrepareConfig(ray_address=address)),
            ):
                pass
        server.shutdown()
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    for address in (f"127.0.0.1:{port}", "host:port", ":6379", "[::1]:1", "auto"):
        with (
            pytest.raises(CacheError, match=r"cannot connect to .* Check `ray_address`"),
            connected(PrepareConfig(ray_address=address)),
        ):
            pass
    with pytest.raises(ConfigError, match="`ray_address` is empty"):
        PrepareConfig(ray_address=" ")
