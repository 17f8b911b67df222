"""What kill -9 leaves of a file that was being written."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

_DIE = """
import os, signal, sys
from pathlib import Path
from pass2d.common.files import whole_file
with whole_file(Path(sys.argv[1]) / "victim") as aside:
    aside.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def left_by_a_kill(folder: Path) -> Path:
    """Kill a process while it writes to a folder, and return what it leaves there."""
    before = {*folder.iterdir()}
    ended = subprocess.run([sys.executable, "-c", _DIE, str(folder)], check=False)
    assert ended.returncode == -signal.SIGKILL
    (left,) = {*folder.iterdir()} - before
    return left
