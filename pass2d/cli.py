"""The `pass2d` program: installs signal handlers, then loads the commands and runs one."""

from __future__ import annotations

import getpass
import io
import os
import signal
import sys


def __getattr__(name: str) -> object:
    """`app`, whose import takes a while, so that a signal may arrive first."""
    if name != "app":
        raise AttributeError(name)
    from pass2d.commands.app import app

    return app


def main() -> None:
    """Entry point of the `pass2d` script."""
    numbers = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)  # they wait until there is who takes them
    _open_closed_outputs()
    _show_any_text()
    from pass2d.commands.signals import EXIT_CODES, SIGNALS

    SIGNALS.catch()
    try:
        with SIGNALS.deciding():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
            _run()
    except SystemExit as end:
        SIGNALS.over()
        _give_up_full_outputs()
        is_interrupted = end.code in EXIT_CODES.values()
        if isinstance(end.code, int) and (is_interrupted or _has_threads_in_the_way(end.code)):
            _leave_at_once(end.code)
        raise


def _run() -> None:
    """Run the command that was typed; it exits."""
    # Torch's threads wait for each other many times in a step. Spinning without end took several
    # times the CPU on busy cores; sleeping at once took a third more time on idle ones.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "passive"
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    name_the_user()
    try:
        from pass2d.commands.app import app
        from pass2d.commands.console import clear_errors, ended_by

        with ended_by(), clear_errors():  # outside of commands: options, help, version
            app(prog_name="pass2d")
    except ImportError as error:
        if (error.name or "").split(".")[0] == "pass2d":
            raise
        sys.exit(f"error: a package cannot be imported: {error}. Run `pass2d doctor`.")


def name_the_user() -> None:
    """Torch needs a user name; in a container (`docker run --user 1234`) there may be none."""
    try:
        getpass.getuser()
    except (KeyError, OSError):  # OSError since Python 3.13
        os.environ["LOGNAME"] = str(os.getuid())


def _open_closed_outputs() -> None:
    """Give Python streams to write to if the shell has closed them (`2>&-`)."""
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, descriptor)
            setattr(sys, name, os.fdopen(descriptor, "w", encoding="utf-8"))


def _give_up_full_outputs() -> None:
    """Discard unwritten output: the error has been reported, and Python would retry the write."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _show_any_text() -> None:
    """Make names that are not Unicode, and characters missing in the locale, printable."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _has_threads_in_the_way(code: int) -> bool:
    """Whether destroying the interpreter could abort the process, or take a minute.

    E.g. after Ctrl-C, when threads may still wait for a store that does not respond. Those of gloo
    crash if they release a last tensor at that moment (github.com/pytorch/pytorch/pull/179291);
    Rerun's wait for a file that cannot be written.
    """
    is_one_of_many = os.environ.get("WORLD_SIZE", "1") != "1"
    return (code != 0 and "rerun" in sys.modules) or ("torch" in sys.modules and is_one_of_many)


def _leave_at_once(code: int) -> None:
    """End without destroying the interpreter."""
    import atexit

    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
