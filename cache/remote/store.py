"""Objects of a remote store by name: reading, writing and listing, with limited retries.

Everything that reads or writes a URL goes through `RemoteStore`, so that retries, timeouts and
error messages are the same everywhere.
"""

from __future__ import annotations

import contextlib
import errno
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar

from pass2d.cache.keys import hash_bytes, hash_file
from pass2d.cache.remote.config import RemoteConfig
from pass2d.cache.urls import canonical_url
from pass2d.common.errors import CacheError
from pass2d.common.files import write_failure

T = TypeVar("T")

_FINAL = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)
_FINAL_WORDS = ("Credentials", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch")
_SETTING_WORDS = ("ProfileNotFound", "Invalid endpoint", "unexpected keyword", "NoRegion")
_UNKNOWN_MODE = (NotImplementedError, TypeError, ValueError)
_PARALLEL = 4
"""Simultaneous requests when many objects are read."""


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """An object below the store's URL."""

    nbytes: int
    time_s: float
    """When it was last written, seconds since 1970; 0 if the store does not say."""


class RemoteStore:
    """The objects below one URL; threads may share it."""

    def __init__(self, url: str, config: RemoteConfig | None = None) -> None:
        self.config = config or RemoteConfig.from_environment()
        self.url = canonical_url(url)
        self.gives_ranges = True
        """False once the store has answered with a whole object instead of a range."""
        self._fs, path = _filesystem(self.url, self.config)
        self._path = path.rstrip("/")
        # Else s3fs asks for the size first, to split what is large.
        parameters = signature(getattr(self._fs, "_cat_file", self._fs.cat_file)).parameters
        self._in_one_request = {"max_concurrency": 1} if "max_concurrency" in parameters else {}

    def below(self, name: str) -> RemoteStore:
        """The store of a folder of this one."""
        return RemoteStore(f"{self.url}/{name}", self.config)

    def exists(self, name: str) -> bool:
        """Whether there is an object of this name."""
        return self.tried(lambda: self._exists(name), name)

    def read(self, name: str, *, xxh3: str | None = None) -> bytes:
        """A whole object; with ``xxh3``, only bytes with that hash are accepted.

        Raises:
            CacheError: it is missing, or the store does not return it.
        """

        def read() -> bytes:
            data: bytes = self._fs.cat_file(self._at(name), **self._in_one_request)
            if xxh3 is not None and hash_bytes(data) != xxh3:
                raise WrongBytesError(f"{len(data)} bytes with a wrong checksum")
            return data

        return self.tried(read, name)

    def find(self, name: str) -> bytes | None:
        """A whole object; None when there is none of this name."""
        with contextlib.suppress(MissingError):
            return self.read(name)
        return None

    def read_range(
        self, name: str, start: int, stop: int, is_sound: Callable[[bytes], bool] | None = None
    ) -> bytes:
        """Bytes [start, stop) of an object; requested again if ``is_sound`` refuses them.

        Raises:
            CacheError: the store does not return them.
        """

        def read() -> bytes:
            data: bytes = self._fs.cat_file(self._at(name), start=start, end=stop)
            if (
                len(data) >= stop and len(data) > stop - start
            ):  # a plain web server gives the whole object
                self.gives_ranges = False
                data = data[start:stop]
            if len(data) != stop - start:
                raise WrongBytesError(f"{len(data)} of {stop - start} bytes")
            if is_sound is not None and not is_sound(data):
                raise WrongBytesError(f"bytes {start} to {stop} have a wrong checksum")
            return data

        return self.tried(read, name)

    def fetch(self, name: str, aside: Path, *, nbytes: int, xxh3: str) -> None:
        """Copy an object to a local file that is not in use yet.

        Raises:
            CacheError: the store does not return the expected bytes.
        """

        def fetch() -> None:
            with _local_disk(aside):
                self._fs.get_file(self._at(name), str(aside))
            found = hash_file(aside)
            if (found[0], found[2]) != (nbytes, xxh3):
                raise WrongBytesError(f"{found[0]} bytes with a wrong size or checksum")

        self.tried(fetch, name)

    def copy(self, name: str, path: Path) -> None:
        """Copy an object, whatever it holds, to a local file."""

        def copy() -> None:
            with _local_disk(path):
                self._fs.get_file(self._at(name), str(path))

        self.tried(copy, name)

    def write(self, name: str, data: bytes) -> None:
        """Create or replace an object in one step: readers see the old bytes or the new."""
        self.tried(lambda: self._fs.pipe_file(self._at(name), data), name, verb="write")

    def write_new(self, name: str, data: bytes) -> bool:
        """Create an object unless there is one; False when another was first.

        With S3 and stores that know fsspec's mode "create" the store decides (If-None-Match).
        Elsewhere it is looked up first: of two simultaneous writers, the later one wins.
        """

        def create() -> bool:
            try:
                self._fs.pipe_file(self._at(name), data, mode="create")
            except FileExistsError:
                return False
            except _UNKNOWN_MODE:
                return self._write_if_absent(name, data)
            except OSError as error:
                if "NotImplemented" not in str(error):  # a server that speaks an older S3
                    raise
                return self._write_if_absent(name, data)
            return True

        is_ours = self.tried(create, name, verb="write")
        # After an answer that was lost, the second attempt meets the object of the first.
        return is_ours or self.find(name) == data

    def _write_if_absent(self, name: str, data: bytes) -> bool:
        if self._exists(name):
            return False
        self._fs.pipe_file(self._at(name), data)
        return True

    def _exists(self, name: str) -> bool:
        self._fs.invalidate_cache()  # else a listing of before tells
        return bool(self._fs.exists(self._at(name)))

    def upload(self, folder: Path, name: str) -> None:
        """Copy all files below a local folder to objects below ``name``."""
        files = sorted(path for path in folder.rglob("*") if path.is_file())

        def put(path: Path) -> None:
            target = f"{name}/{path.relative_to(folder)}"
            self.tried(lambda: self._fs.put_file(str(path), self._at(target)), target, verb="write")

        self._parallel(put, files)

    def read_many(self, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Objects with their names, in the order given; a few are read at a time."""
        yield from zip(names, self._parallel(self.read, names), strict=True)

    def _parallel(self, action: Callable[[Any], T], items: Sequence[Any]) -> list[T]:
        if len(items) < 2:
            return [action(item) for item in items]
        pool = ThreadPoolExecutor(_PARALLEL, thread_name_prefix="pass2d-store")
        try:
            futures = [pool.submit(action, item) for item in items]
            return [future.result() for future in futures]
        finally:  # after Ctrl-C, do not wait for a store that does not respond
            pool.shutdown(wait=False, cancel_futures=True)

    def names(self, folder: str = "") -> list[str]:
        """Names of objects and folders directly below ``folder``, sorted; none if it is missing."""

        def names() -> list[str]:
            self._fs.invalidate_cache()
            try:
                entries = self._fs.ls(self._at(folder), detail=False)
            except FileNotFoundError:
                return []
            # Some stores list a folder's own marker, or an object of the folder's very name.
            below = {str(entry).strip("/") for entry in entries} - {self._at(folder).strip("/")}
            return sorted({path.rsplit("/", 1)[-1] for path in below})

        return self.tried(names, folder)

    def objects(self, folder: str = "") -> dict[str, StoredObject]:
        """All objects below ``folder``, however deep, by name from the store's URL on."""

        def objects() -> dict[str, StoredObject]:
            self._fs.invalidate_cache()
            root = self._at("").rstrip("/") + "/"
            found = self._fs.find(self._at(folder), detail=True)
            return {
                str(path).removeprefix(root): StoredObject(
                    nbytes=int(entry.get("size") or 0), time_s=_time_s(entry)
                )
                for path, entry in sorted(found.items())
                if entry.get("type") != "directory" and not str(path).endswith("/")
            }

        return self.tried(objects, folder)

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects; those that are gone already do not count."""
        for name in names:

            def remove(name: str = name) -> None:
                with contextlib.suppress(FileNotFoundError):
                    self._fs.rm_file(self._at(name))

            self.tried(remove, name, verb="remove")

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}" if name else self._path

    def tried(self, action: Callable[[], T], name: str, *, verb: str = "read") -> T:
        """Do it, and retry after temporary errors: 429, 5xx, timeouts, broken connections.

        Raises:
            MissingError: no such object or bucket.
            CacheError: refused, or given up.
        """
        url = f"{self.url}/{name}" if name else self.url
        attempt = 0
        while True:
            try:
                return action()
            except CacheError:
                raise
            except Exception as error:  # every protocol has errors of its own
                attempt += 1
                if _is_final(error) or attempt >= self.config.attempts:
                    raise _failure(url, error, attempt, verb) from error
            wait_s = self.config.first_wait_s * 2 ** (attempt - 1)
            time.sleep(wait_s * random.uniform(0.5, 1))


class MissingError(CacheError):
    """No such object or bucket."""


class WrongBytesError(Exception):
    """A body that is shorter than announced, or differs from what is expected."""


@contextlib.contextmanager
def _local_disk(path: Path) -> Iterator[None]:
    """A full local disk is not a fault of the store; retrying would not help."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG):
            raise
        raise write_failure(path, error) from error


def _is_final(error: Exception) -> bool:
    return isinstance(error, _FINAL) or _says(error, (*_FINAL_WORDS, *_SETTING_WORDS))


def _says(error: Exception, words: Sequence[str]) -> bool:
    text = f"{type(error).__name__} {error}"
    return any(word in text for word in words)


def _failure(url: str, error: Exception, attempts: int, verb: str) -> CacheError:
    reason = " ".join(str(error).split()) or type(error).__name__
    text = f"{url}: cannot {verb} ({reason[:200]})."
    if isinstance(error, FileNotFoundError):
        return MissingError(
            f"{text} No such object or bucket: check `cache_root`, or prepare again."
        )
    if _says(error, _SETTING_WORDS):
        remedy = "Check the settings: AWS_* and ~/.aws, PASS2D_STORE_OPTIONS."
    elif _is_final(error):
        remedy = "Access denied: check the credentials and permissions for this address."
    else:
        remedy = f"Given up after {attempts} attempts: check network and store, then run again."
    return CacheError(f"{text} {remedy}")


def _time_s(entry: dict[str, Any]) -> float:
    for name in ("LastModified", "last_modified", "updated", "mtime", "created"):
        value = entry.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, (int, float)):
            return float(value)
    return 0.0


def _filesystem(url: str, config: RemoteConfig) -> tuple[Any, str]:
    import fsspec  # type: ignore[import-untyped]

    protocol = url.split(":", 1)[0].lower()
    options = dict(config.options)
    if _is_s3(url):
        options.setdefault("max_concurrency", 2)  # parts of 50 MB that are held at a time
        patience = {"connect_timeout": min(5.0, config.timeout_s), "read_timeout": config.timeout_s}
        # Attempts are counted here: those of two libraries below would multiply them.
        own = {"retries": {"total_max_attempts": 1}, **patience}
        options["config_kwargs"] = {**own, **options.get("config_kwargs", {})}
    try:
        fs, path = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        package = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs"}
        wanted = package.get(protocol, "the package named above")
        raise CacheError(f"{url}: {error}. Run `pip install {wanted}`.") from error
    except (ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise CacheError(f"{url}: {reason}. Expected e.g. s3://bucket/prefix.") from error
    if _is_s3(url):
        fs.retries = 1
    return fs, path


def _is_s3(url: str) -> bool:
    return url.split(":", 1)[0].lower() in ("s3", "s3a")
