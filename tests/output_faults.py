"""Runs commands under faults: each in a fork of one process that has loaded all.

`python tests/output_faults.py WORLD` reads lines of JSON, [fault, words...], and answers each by
[exit code or -signal, stdout, stderr]. In words, WORLD is a fresh copy of that folder. A fault is a
key of `FAULTS`, or "SIGINT pass2d.module:function": the signal comes when that is called.
"""

from __future__ import annotations

import json
import os
import resource
import selectors
import shutil
import signal
import sys
import tempfile
from importlib import import_module
from pathlib import Path

LIMIT_S = 60
LOADED = (
    "numpy",
    "torch",
    "torch._dynamo",  # optimisers import it
    "zarr.api.synchronous",
    "pass2d.cache.care.verify",
    "pass2d.cache.statistics",
    "pass2d.commands.app",
    "pass2d.pipeline.prepare",
    "pass2d.synth.generate",
    "pass2d.train.evaluation.evaluate",
    "pass2d.train.loop",
    "pass2d.train.prediction.predict",
    "pass2d.train.robustness.cached",
    "pass2d.train.submission.submit",
    "pass2d.train.viewing.page",
)
"""What commands import, of which each would be loaded in every fork."""


def _no_space() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))


def _no_folder() -> None:
    gone = tempfile.mkdtemp()
    os.chdir(gone)
    Path(gone).rmdir()


def _no_stdout() -> None:
    os.close(1)
    sys.stdout = None  # type: ignore[assignment]  # as the interpreter does


def _no_reader() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, 1)


def _full_stdout() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


FAULTS = {
    "nothing": lambda: None,
    "no space": _no_space,
    "no folder": _no_folder,
    "no stdout": _no_stdout,
    "no reader": _no_reader,
    "full stdout": _full_stdout,
}


def _signal_at(name: str, place: str) -> None:
    module, _, function = place.partition(":")
    home = import_module(module)
    original = getattr(home, function)

    def interrupted(*arguments: object, **options: object) -> object:
        signal.raise_signal(signal.Signals[name])
        return original(*arguments, **options)

    setattr(home, function, interrupted)


def run(fault: str, words: list[str]) -> tuple[int, str, str]:
    """Fork, break what the fault says, run the command."""
    pipes = [os.pipe(), os.pipe()]  # not files: these are not what has no space
    child = os.fork()
    if child == 0:
        code = 99
        try:
            signal.alarm(LIMIT_S)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for number, pipe in enumerate(pipes, 1):
                os.dup2(pipe[1], number)
                for descriptor in pipe:
                    os.close(descriptor)
            sys.stdout = os.fdopen(1, "w", closefd=False)  # not those of the parent's outputs
            sys.stderr = os.fdopen(2, "w", closefd=False)
            if fault in FAULTS:
                FAULTS[fault]()
            else:
                _signal_at(*fault.split())
            code = _command(words)
        finally:
            os._exit(code)
    said = {reading: b"" for reading, _ in pipes}
    for _, writing in pipes:
        os.close(writing)
    with selectors.DefaultSelector() as ready:
        for reading in said:
            ready.register(reading, selectors.EVENT_READ)
        while ready.get_map():
            for key, _ in ready.select():
                data = os.read(key.fd, 1 << 16)
                said[key.fd] += data
                if not data:
                    ready.unregister(key.fd)
                    os.close(key.fd)
    out, err = (text.decode(errors="replace") for text in said.values())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), out, err


def _command(words: list[str]) -> int:
    from pass2d.cli import main

    sys.argv = ["pass2d", *words]
    try:
        main()
    except SystemExit as end:
        try:  # as the interpreter at its end
            if sys.stdout is not None:
                sys.stdout.flush()
        except OSError as error:
            sys.stderr.write(f"Exception ignored: {error}\n")
            sys.stderr.flush()
            return 120
        if isinstance(end.code, str):
            sys.stderr.write(end.code + "\n")
        sys.stderr.flush()
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001  # as the interpreter
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        return 1
    return 0


def main() -> None:
    """Answer line after line; each case has a fresh copy of the world."""
    for name in LOADED:
        import_module(name)
    world, answers = Path(sys.argv[1]), os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        fault, *words = json.loads(line)
        with tempfile.TemporaryDirectory() as folder:
            case = Path(folder) / "case"
            shutil.copytree(world, case, symlinks=True)
            os.chdir(case)
            given = [word.replace("WORLD", str(case)) for word in words]
            answers.write(json.dumps(run(fault, given)) + "\n")
            answers.flush()
            os.chdir("/")


if __name__ == "__main__":
    main()
