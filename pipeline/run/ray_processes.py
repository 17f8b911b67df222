"""The processes of a Ray of ours: where their files lie, how they start, and that none is left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from multiprocessing import Pipe
from pathlib import Path

import pass2d
from pass2d.common.errors import CacheError
from pass2d.pipeline.run.ray_guard import is_running

_MARK = "PASS2D_RAY_OF"
"""In the environment of all that a run starts for Ray."""
_ROOT = Path(pass2d.__file__).resolve().parents[1]
_GUARD = Path(__file__).with_name("ray_guard.py")
# The current folder is not searched for modules (-P): a random.py there would hide a library.
DRIVER = (
    f"import sys; sys.path.append({str(_ROOT)!r}); "
    "from pass2d.pipeline.run.ray_driver import main; main()"
)
_PREFIX = "p2d-"
_SOCKET_BYTES = 107
"""Of the name of a Unix socket, at most."""
_IN_FOLDER = len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")
_END_S = 15.0
_LOG_LINES = 200
"""How many last lines of each of Ray's logs are kept."""


class RayProcesses:
    """A driver of Ray, its guard, and all that they start.

    Args:
        folder: of their files, made for them alone; it goes with them.
        driver: the program in Python that runs Ray.
        is_ours: Ray is started, not a cluster joined.
    """

    def __init__(self, folder: Path, *, driver: str = DRIVER, is_ours: bool = True) -> None:
        self._folder = folder
        self._mark = f"{_MARK}={uuid.uuid4().hex}"
        self.channel, theirs = Pipe()
        reading, self._lifeline = os.pipe()
        python, channel = sys.executable, str(theirs.fileno())
        guard = [python, "-I", "-S", str(_GUARD), str(folder), str(reading), channel]
        with (folder / "driver.log").open("wb") as log:
            self._guard = subprocess.Popen(
                [*guard, python, "-P", "-c", driver, channel],
                pass_fds=(reading, theirs.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=_ROOT,  # Ray's workers search the driver's folder first
                env=_environment(self._mark, is_ours=is_ours),
                start_new_session=True,  # Ctrl-C reaches the run alone
            )
        os.close(reading)
        theirs.close()
        self._ending = threading.Lock()
        self._has_ended = False

    def end(self) -> None:
        """Kill all of them that are left, and remove their folder."""
        with self._ending:
            if self._has_ended:
                return
            self._has_ended = True
            os.close(self._lifeline)
            try:
                self._guard.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._guard.kill()
                self._guard.wait()
            deadline, ended = time.monotonic() + _END_S, set[int]()
            while time.monotonic() < deadline:  # the guard may have been killed
                found = end_marked(self._mark.encode())
                ended |= found
                # A process on its way out has no environment any more, but its files are open.
                if not found and not any(map(is_running, ended)):
                    break
                time.sleep(0.01)
            shutil.rmtree(self._folder, ignore_errors=True)

    def keep_log(self) -> Path | None:
        """Gather what Ray and the driver said last in one file that stays."""
        places = [self._folder / "driver.log", *sorted(self._folder.glob("session_2*/logs/*.*"))]
        try:
            descriptor, name = tempfile.mkstemp(prefix="pass2d-ray-", suffix=".log")
            with os.fdopen(descriptor, "w", encoding="utf-8") as kept:
                for place in places:
                    lines = place.read_text(encoding="utf-8", errors="replace").splitlines()
                    kept.write(f"==> {place.name} <==\n")
                    kept.writelines(f"{line}\n" for line in lines[-_LOG_LINES:])
        except OSError:
            return None
        return Path(name)


def ray_folder() -> Path:
    """Make a folder for a Ray: writable, and with a name that is short enough for its sockets.

    Raises:
        CacheError: there is no place for one.
    """
    found = []
    for name in (os.environ.get("RAY_TMPDIR"), os.environ.get("TMPDIR"), "/tmp", "/var/tmp"):
        if not name:
            continue
        longest = _SOCKET_BYTES - _IN_FOLDER - len(f"/{_PREFIX}12345678")
        try:
            place = Path(name).absolute()
            if len(os.fsencode(place)) > longest:
                found.append(f"{name}: the name is longer than {longest} bytes")
                continue
            return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        except OSError as error:
            found.append(f"{name}: {error.strerror}")
    raise CacheError(
        f"Ray finds no folder for its sockets ({'; '.join(found)}). Set TMPDIR to a writable "
        "folder with a short name, or use `workers=0` to work without Ray."
    )


def _environment(mark: str, *, is_ours: bool) -> dict[str, str]:
    """For a guard and all below it."""
    name, _, value = mark.partition("=")
    environment = {"RAY_USAGE_STATS_ENABLED": "0", **os.environ, name: value}
    if is_ours:  # else Ray makes a token for ever, in a home that may not be writable
        environment["RAY_AUTH_TOKEN"] = uuid.uuid4().hex
    if "TMPDIR" in environment:  # relative, it would mean another folder there; empty, any
        environment["TMPDIR"] = tempfile.gettempdir()
    return environment


def end_marked(mark: bytes) -> set[int]:
    """Kill the processes that carry a mark in their environment, and return them."""
    ended = set()
    for place in Path("/proc").glob("[0-9]*"):
        try:
            variables = (place / "environ").read_bytes().split(b"\0")
            if mark in variables and int(place.name) != os.getpid():
                os.kill(int(place.name), signal.SIGKILL)
                ended.add(int(place.name))
        except OSError:
            continue  # of another user, or it has just ended
    return ended
