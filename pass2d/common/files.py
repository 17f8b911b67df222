"""Writes files so that partial files are never visible, and reports failed writes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import xxhash

from pass2d.common.errors import CacheError, DataError

_FATAL = {
    errno.ENOSPC: "the disk is full: free space and run the command again, it continues from here",
    errno.EDQUOT: "the quota is used up: free space and run the command again",
    errno.EACCES: "no write permission: choose another folder or change the permissions",
    errno.EPERM: "no write permission: choose another folder or change the permissions",
    errno.EFBIG: "the file system (or a limit) does not allow files of this size",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.ENAMETOOLONG: "the path is too long: choose a shorter one",
    errno.ENOTDIR: "a part of the path is a file, not a folder: choose another folder",
    errno.EEXIST: "a file is in the way: choose another folder",
    errno.ELOOP: "it is a link, and nothing is written through links: remove it",
}
INCOMING = "CURRENT-"
"""Begins the name of what is about to be renamed to CURRENT."""
_TRIES = 1000
_ATTEMPT = re.compile(r".+-[0-9a-f]{32}")
"""Temporary names that pass2d uses; nothing else in those folders is ever deleted."""


NO_PERMISSION = "no permission to read it. Change its permissions, or ask its owner"


def is_there(path: Path) -> bool:
    """Whether anything has this name: a pipe or a broken link is not the same as no file.

    Reading it then reports what it is, whereas a check for a regular file would treat it as
    missing.
    """
    return os.path.lexists(path)


def other_than_folder(path: Path) -> str | None:
    """What is there instead of a folder; None for a folder."""
    try:
        if path.is_dir():
            return None
        if path.exists():
            return "a file, not a folder"
        return "a link to nothing" if path.is_symlink() else "no such folder"
    except OSError as error:  # no permission, or a name that is too long
        return (error.strerror or type(error).__name__).lower()


def may_not_look(folder: Path) -> bool:
    """Whether a folder exists whose files may not be listed or opened."""
    try:
        return folder.is_dir() and not _may(folder, os.R_OK | os.X_OK)
    except PermissionError:  # of a folder above it
        return True


def _may(path: Path, mode: int) -> bool:
    """As `os.access`, for the user that files are opened as."""
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def read_fault(error: OSError | ValueError) -> str:
    """Why a file cannot be read as text, to follow its name in a message."""
    if isinstance(error, PermissionError):
        return f"{NO_PERMISSION}."
    return f"cannot be read ({error.strerror if isinstance(error, OSError) else error})."


def read_failure(
    path: Path | str, error: OSError, *, remedy: str = "Repair the cache (`repair`)"
) -> CacheError:
    """The error to raise for a file that exists but cannot be read."""
    if isinstance(error, PermissionError):
        return CacheError(f"{error.filename or path}: {NO_PERMISSION}.")
    return CacheError(f"{path}: cannot read ({error.strerror}). {remedy}.")


def read_file(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        FileNotFoundError: there is none.
        CacheError: it cannot be read: no permission, a folder in its place, a fault of the disk.
    """
    try:
        return read_whole(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise read_failure(path, error) from error


class TransientWriteError(CacheError, OSError):
    """A write failed with a possibly temporary error (e.g. EIO); as an OSError, it is retried."""


class NotWritableError(CacheError):
    """No permission to write, or a read-only disk; operations that only read can continue."""


def write_failure(path: Path, error: OSError) -> CacheError:
    """The error to raise for a failed write: final for a full disk, else retried."""
    reason = _FATAL.get(error.errno or 0)
    if reason is not None:
        is_refused = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        kind = NotWritableError if is_refused else CacheError
        return kind(f"{path}: cannot write ({error.strerror}): {reason}.")
    return TransientWriteError(
        f"{path}: cannot write ({error.strerror}), even after retrying. Check the disk and run "
        "the command again, it continues from here."
    )


def require_no_link(*folders: Path) -> None:
    """Refuse folders inside a data set that are links, as their targets are not ours.

    The data set's own folder, and those above it, may be links (to a larger disk).

    Raises:
        CacheError: names the link.
    """
    for folder in folders:
        if folder.is_symlink():
            raise CacheError(
                f"{folder}: a link where pass2d expects its own folder. It neither writes nor "
                "deletes behind links inside a data set: remove the link (what it leads to stays)."
            )


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of the body into one that names ``path`` and the remedy."""
    try:
        yield
    except CacheError:
        raise
    except OSError as error:
        where = Path(error.filename) if isinstance(error.filename, str) else path
        raise write_failure(where, error) from error


def open_file(path: Path | str) -> int:
    """Open a regular file for reading; reading a pipe or a device might never end.

    Raises:
        OSError: it cannot be opened, or is something else; the reason is in ``strerror``.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    kind = os.fstat(fd).st_mode
    if stat.S_ISREG(kind):
        return fd
    os.close(fd)
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "It is a pipe, a socket or a device, not a regular file", str(path))


def read_whole(path: Path) -> bytes:
    """All bytes of a regular file; used for all files given by users.

    Raises:
        OSError: as of `open_file`.
    """
    with os.fdopen(open_file(path), "rb") as file:
        return file.read()


def write_file(path: Path, parts: Iterable[bytes]) -> tuple[int, str]:
    """Write a new file; `sync_tree` or `sync` makes it durable.

    Returns:
        Its size in bytes and its xxh3_128 as 32 hex digits.
    """
    digest = xxhash.xxh3_128()
    nbytes = 0
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        for part in parts:
            digest.update(part)
            nbytes += len(part)
            _write_all(fd, part)
    finally:
        os.close(fd)
    return nbytes, digest.hexdigest()


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sync(path: Path) -> None:
    """Make a file's bytes, or a folder's names, durable."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_tree(folder: Path) -> None:
    """Make everything below a folder durable.

    Called once at the end, as the first fsync writes the file system's journal for all of them.
    """
    for below, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(Path(below) / name)
        sync(Path(below))


def replace_file(path: Path, data: bytes, *, scratch: Path) -> None:
    """Write a file in ``scratch`` and move it to ``path`` in one step."""
    require_no_link(scratch)
    with writing(path):
        scratch.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = scratch / f"{path.name}-{uuid.uuid4().hex}"
        try:
            write_file(aside, [data])
            sync(aside)
            aside.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)
            raise
        sync(path.parent)


@contextlib.contextmanager
def whole_file(path: Path, *, aside: Path | None = None, is_durable: bool = True) -> Iterator[Path]:
    """Yield a name to write to; on success, that file replaces ``path``.

    Whatever happens, ``path`` is the old file or the complete new one, and no temporary file
    remains; those of a killed process are removed when the next file is written there.

    Args:
        path: The file.
        aside: The name to write to, on the same file system; None: one of `beside`.
        is_durable: Survive a power cut too, which takes milliseconds.

    Raises:
        OSError: As the body, or ``path`` is a folder, a device, a pipe.
    """
    if path.exists() and not path.is_file():
        code = errno.EISDIR if path.is_dir() else errno.EEXIST
        raise OSError(code, "a folder" if path.is_dir() else "not a regular file", str(path))
    with contextlib.ExitStack() as stack:
        if aside is None:
            # Readers that search a folder for a suffix must not find it.
            aside = stack.enter_context(beside(path)) / "unfinished.tmp"
        else:
            stack.callback(_remove_if_possible, aside)
        yield aside
        if is_durable:
            sync(aside)
        aside.replace(path)
        if is_durable:
            sync(path.parent)


def _remove_if_possible(path: Path) -> None:
    with contextlib.suppress(OSError):  # its folder may be what is missing
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A temporary folder on the file system of ``path``, whose folder must exist.

    Raises:
        OSError: It cannot be made.
    """
    scratch = _scratch_in(path.parent)
    path.parent.stat()  # else it would be made, too
    remove_leftovers(path.parent)
    try:
        try:
            with attempt_folder(scratch, "unfinished") as attempt:
                yield attempt
        finally:
            _remove_if_empty(scratch)
    except BaseException:  # Ctrl-C may have come in between
        _remove_if_empty(scratch)
        raise


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files that killed processes left in a folder.

    Raises:
        CacheError: They are behind a link.
    """
    scratch = _scratch_in(folder)
    if scratch.is_dir():
        remove_abandoned(scratch)
        _remove_if_empty(scratch)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A private temporary folder; those of killed runs are removed first."""
    place = Path(tempfile.gettempdir()).resolve()
    name = f"pass2d-{os.geteuid()}"
    remove_abandoned(place, name=f"{name}-")
    with attempt_folder(place, name) as folder:
        folder.chmod(0o700)
        yield folder


def _scratch_in(folder: Path) -> Path:
    """The name of temporary folders: one per user, as several users may share a folder."""
    return folder / f".pass2d-{os.geteuid()}"


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


@contextlib.contextmanager
def written_whole(path: Path, what: str) -> Iterator[Path]:
    """As `whole_file`, for results: a failure names the file and the remedy.

    Args:
        path: The file.
        what: For the message: "the picture", "the page".

    Raises:
        DataError: The folder is missing or not writable, or the disk is full.
    """
    try:
        with whole_file(path) as aside:
            yield aside
    except OSError as error:
        raise DataError(
            f"{path}: {what} could not be written: {error.strerror or error}. "
            "Check that its folder exists and is writable, and that the disk is not full."
        ) from error


def make_folder(folder: Path, what: str) -> None:
    """Make the folder of a result, before any work is done.

    Args:
        folder: Made with those above it, unless it is there.
        what: For the message: "pictures", "results".

    Raises:
        DataError: A file is in the way, or the place is not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not _may(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    except OSError as error:
        raise DataError(
            f"{folder}: no {what} can be written there: {error.strerror}. Choose another folder."
        ) from error


@contextlib.contextmanager
def attempt_folder(scratch: Path, name: str) -> Iterator[Path]:
    """A temporary folder below ``scratch``, which the block may rename to keep it.

    It is locked while its owner lives, which distinguishes it from leftovers of killed runs.
    """
    require_no_link(scratch)
    tried: list[Path] = []
    fd = -1
    try:
        try:
            fd = _locked_folder(scratch, name, tried)
            yield tried[-1]
        finally:
            _remove_last(tried)
    except BaseException:  # Ctrl-C may have come while it was made or removed
        _remove_last(tried)
        raise
    finally:
        if fd >= 0:
            os.close(fd)


def _remove_last(tried: list[Path]) -> None:
    for path in tried[-1:]:
        shutil.rmtree(path, ignore_errors=True)


def _locked_folder(scratch: Path, name: str, tried: list[Path]) -> int:
    """Make a folder and lock it; repeated if another process removes it in between.

    Args:
        scratch: where.
        name: how its name begins.
        tried: receives its path before it is made.

    Returns:
        A descriptor that holds the lock.
    """
    for _ in range(_TRIES):
        path = scratch / f"{name}-{uuid.uuid4().hex}"
        tried.append(path)
        try:
            path.mkdir()
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                scratch.mkdir(parents=True)
            continue
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(fd, fcntl.LOCK_EX)
        if path.exists():
            return fd
        os.close(fd)
    raise FileNotFoundError(errno.ENOENT, "it is removed again and again", str(scratch))


def remove_abandoned(
    scratch: Path, *, name: str = "", spared: str | None = None, min_age_s: float = 0.0
) -> int:
    """Delete attempts whose owner is dead; returns their number.

    Args:
        scratch: folder of the attempts.
        name: only those whose name begins so.
        spared: not those whose name begins so.
        min_age_s: keep younger ones, which another process may be about to lock.
    """
    removed = 0
    newest_s = time.time() - min_age_s
    for path in attempts(scratch):
        if not path.name.startswith(name) or (spared and path.name.startswith(spared)):
            continue
        if path.is_symlink():
            path.unlink(missing_ok=True)
            continue
        try:
            # Never through a link, and without waiting for who writes to a pipe.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            fd = os.open(path, flags)
        except OSError:
            continue
        try:
            is_old = min_age_s <= 0 or os.fstat(fd).st_mtime <= newest_s
            if is_old and try_lock(fd, exclusive=True):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
                removed += 1
        finally:
            os.close(fd)
    return removed


def attempts(scratch: Path) -> list[Path]:
    """What pass2d made in a data set's `.tmp`, sorted; without locks and a CURRENT to come.

    Raises:
        CacheError: `.tmp` is a link.
    """
    require_no_link(scratch)
    try:
        found = sorted(scratch.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [
        path
        for path in found
        if _ATTEMPT.fullmatch(path.name) and not path.name.startswith(INCOMING)
    ]


def try_lock(fd: int, *, exclusive: bool) -> bool:
    """Lock an open file or folder without waiting; False if another process holds it.

    On file systems without locks (some network mounts) it returns False, so nothing is deleted.
    """
    try:
        fcntl.flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def lock_file(path: Path, *, exclusive: bool, wait: bool) -> Iterator[bool]:
    """Hold a lock on ``path``; yields whether it was acquired (always, when waiting)."""
    require_no_link(path.parent)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        if wait:
            # Without lock support two drivers may both publish: the later one wins, none is harmed.
            with contextlib.suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
            yield True
        else:
            yield try_lock(fd, exclusive=exclusive)
    finally:
        os.close(fd)
