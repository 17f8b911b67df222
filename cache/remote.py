"""Reads a prepared data set from any fsspec URL through a bounded folder on the local disk.

The folder has the layout of the data set, so that the reader works on it as on any other cache.
Files are fetched whole when one of their chunks is first asked for, checked against the manifest's
size and xxh3, and put in place by rename; those used least recently give way.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa  # type: ignore[import-untyped]

from cache.errors import CacheError, ConfigError
from cache.files import attempt_folder, remove_abandoned, replace_file, sync_tree, writing
from cache.jsonio import unseal
from cache.keys import hash_bytes, hash_file
from cache.layout import DATASET_FILE, GENERATION, Layout
from cache.manifest import HASHES_FILE, parse_dataset

T = TypeVar("T")

_FINAL = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)
_FINAL_WORDS = ("Credentials", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch")


@dataclass(frozen=True, kw_only=True)
class RemoteConfig:
    """Local disk and patience of a remote store; neither changes a result."""

    folder: Path = field(default_factory=lambda: Path.home() / ".cache" / "pass2d")
    """Holds one folder per remote data set; may be shared by several processes."""
    limit_bytes: int = 50_000_000_000
    """Shard files of all data sets together."""
    attempts: int = 6
    first_wait_s: float = 0.5
    """Before the second attempt; doubled each time, times a random share of 0.5 to 1."""

    @classmethod
    def from_environment(cls) -> RemoteConfig:
        """PASS2D_LOCAL_CACHE (a folder) and PASS2D_LOCAL_CACHE_GB.

        Raises:
            ConfigError: the size is no positive number.
        """
        changes: dict[str, Any] = {}
        if place := os.environ.get("PASS2D_LOCAL_CACHE"):
            changes["folder"] = Path(place).expanduser().resolve()
        if text := os.environ.get("PASS2D_LOCAL_CACHE_GB"):
            try:
                changes["limit_bytes"] = int(float(text) * 1e9)
            except (ValueError, OverflowError):
                changes["limit_bytes"] = 0
            if changes["limit_bytes"] <= 0:
                raise ConfigError(f"PASS2D_LOCAL_CACHE_GB: found {text!r}, expected GB above 0.")
        return cls(**changes)


class RemoteMirror:
    """The local copy of what was read of one remote data set."""

    def __init__(
        self, url: str, dataset: str | None = None, config: RemoteConfig | None = None
    ) -> None:
        self._config = config or RemoteConfig.from_environment()
        self._fs, path = _filesystem(url)
        self.url, self._path = self._find(url.rstrip("/"), path.rstrip("/"), dataset)
        self.layout = Layout(
            root=self._config.folder / hash_bytes(self.url.encode())[:16] / self.url.split("/")[-1]
        )
        self._files: dict[str, tuple[int, str]] = {}
        self._sound: dict[str, tuple[int, int, int]] = {}
        self._lock = threading.Lock()
        with writing(self.layout.root):
            self.layout.scratch.mkdir(parents=True, exist_ok=True)
        remove_abandoned(self.layout.scratch)
        self._fetch_manifest()

    def expect(self, shards: pa.Table) -> None:
        """Learn sizes and hashes of all shard files from shards.parquet."""
        columns = [shards[n].to_pylist() for n in ("path", "file_name", "file_bytes", "file_xxh3")]
        for folder, names, sizes, hashes in zip(*columns, strict=True):
            for name, nbytes, xxh3 in zip(names, sizes, hashes, strict=True):
                self._files[f"{folder}/{name}"] = (nbytes, xxh3)

    def open(self, path: str) -> int:
        """A descriptor of a shard file below `layout.root`, fetched if it is not there or damaged.

        Raises:
            CacheError: the store does not give the bytes that the manifest promises.
        """
        name = str(Path(path).relative_to(self.layout.root))
        if name not in self._files:
            raise CacheError(f"{self.url}/{name}: not listed in the manifest.")
        while True:
            with contextlib.suppress(FileNotFoundError):
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                if self._is_sound(path, fd, *self._files[name]):
                    os.utime(fd)  # least recently used is by time of last opening
                    return fd
                os.close(fd)
                Path(path).unlink(missing_ok=True)
            # Evicted by another process between here and the next `os.open`, it is fetched again.
            self._fetch_file(name, *self._files[name])

    def _is_sound(self, path: str, fd: int, nbytes: int, xxh3: str) -> bool:
        stat = os.fstat(fd)
        state = (stat.st_ino, stat.st_size, stat.st_ctime_ns)
        if stat.st_size != nbytes:
            return False
        if self._sound.get(path, (0,))[:2] != state[:2] and hash_file(Path(path))[2] != xxh3:
            return False
        self._sound[path] = state
        return True

    def _fetch_file(self, name: str, nbytes: int, xxh3: str) -> None:
        target = self.layout.root / name
        with self._lock:  # of this process; two processes fetch the same bytes and rename both
            if target.is_file():
                return
            self._make_room(nbytes, name)

            def fetch() -> None:
                with attempt_folder(self.layout.scratch, "fetch") as attempt:
                    aside = attempt / "file"
                    self._fs.get_file(f"{self._path}/{name}", str(aside))
                    found = hash_file(aside)
                    if (found[0], found[2]) != (nbytes, xxh3):
                        raise _WrongBytesError(f"{found[0]} bytes that are not as written")
                    with writing(target):
                        sync_tree(attempt)
                        target.parent.mkdir(parents=True, exist_ok=True)
                        aside.replace(target)

            self._tried(fetch, name)

    def _make_room(self, nbytes: int, name: str) -> None:
        limit = self._config.limit_bytes
        if nbytes > limit:
            raise CacheError(
                f"{self.url}/{name}: {nbytes / 1e9:.3f} GB do not fit into the local cache of "
                f"{limit / 1e9:.3f} GB. Set PASS2D_LOCAL_CACHE_GB higher."
            )
        held = sorted(_held(self._config.folder))
        surplus = sum(size for _, size, _ in held) + nbytes - limit
        for _, size, path in held:
            if surplus <= 0:
                break
            path.unlink(missing_ok=True)
            surplus -= size

    def _fetch_manifest(self) -> None:
        """Once per reader: dataset.json, CURRENT and, unless it is here, the generation."""
        description = self._read(DATASET_FILE)
        text = self._read("CURRENT").decode("utf-8", "replace").strip()
        if GENERATION.fullmatch(text) is None:
            raise CacheError(f"{self.url}/CURRENT: found {text[:40]!r}, expected e.g. gen-000001.")
        folder = self.layout.manifest / text
        if not folder.is_dir():
            hashes = unseal(
                self._read(f"manifest/{text}/{HASHES_FILE}"), where=f"{self.url}/{HASHES_FILE}"
            )
            with (
                writing(folder),
                attempt_folder(self.layout.scratch, "generation") as attempt,
            ):
                (attempt / HASHES_FILE).write_bytes(self._read(f"manifest/{text}/{HASHES_FILE}"))
                for name, xxh3 in hashes["files"].items():
                    data = self._read(f"manifest/{text}/{name}", xxh3=xxh3)
                    (attempt / name).write_bytes(data)
                sync_tree(attempt)
                folder.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileExistsError):
                    _rename_folder(attempt, folder)
        scratch = self.layout.scratch
        replace_file(self.layout.dataset_file, description, scratch=scratch)
        replace_file(self.layout.current_file, f"{text}\n".encode(), scratch=scratch)

    def _read(self, name: str, *, xxh3: str | None = None) -> bytes:
        def read() -> bytes:
            data: bytes = self._fs.cat_file(f"{self._path}/{name}")
            if xxh3 is not None and hash_bytes(data) != xxh3:
                raise _WrongBytesError(f"{len(data)} bytes that are not as written")
            return data

        return self._tried(read, name)

    def _find(self, url: str, path: str, dataset: str | None) -> tuple[str, str]:
        """URL and path of the data set's folder."""
        self.url = url
        own = url.rsplit("/", 1)[-1]
        exists = self._tried(lambda: self._fs.exists(f"{path}/{DATASET_FILE}"), DATASET_FILE)
        if dataset in (None, own) and exists:
            return url, path
        names = [dataset] if dataset else self._tried(lambda: self._names(path), "")

        def holds(name: str) -> bool:
            file = f"{path}/{name}/{DATASET_FILE}"
            return bool(self._tried(lambda: self._fs.exists(file), f"{name}/{DATASET_FILE}"))

        found = [name for name in names if holds(name)]
        if len(found) > 1:
            clean = [name for name in found if not self._is_corrupted(path, name)]
            found = clean if len(clean) == 1 else found
        if len(found) == 1:
            return f"{url}/{found[0]}", f"{path}/{found[0]}"
        if found:
            raise CacheError(f"{url}: holds {', '.join(found)}. Choose one with --dataset.")
        what = f"data set {dataset!r}" if dataset else f"prepared data set (no */{DATASET_FILE})"
        raise CacheError(f"{url}: no {what}. Check the address and what lies there.")

    def _is_corrupted(self, path: str, name: str) -> bool:
        file = f"{name}/{DATASET_FILE}"
        data = self._tried(lambda: self._fs.cat_file(f"{path}/{file}"), file)
        try:
            return parse_dataset(bytes(data), where=f"{self.url}/{file}").corruption is not None
        except CacheError:
            return False

    def _names(self, path: str) -> list[str]:
        entries = self._fs.ls(path, detail=False, refresh=True)
        return sorted({str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in entries} - {""})

    def _tried(self, action: Callable[[], T], name: str) -> T:
        """Do it, again after what may pass: 429, 5xx, timeouts, connections and bodies cut off."""
        place = f"{self.url}/{name}" if name else self.url
        attempt = 0
        while True:
            try:
                return action()
            except CacheError:
                raise
            except Exception as error:  # every protocol has errors of its own
                attempt += 1
                if _is_final(error) or attempt >= self._config.attempts:
                    raise _failure(place, error, attempt) from error
            wait_s = self._config.first_wait_s * 2 ** (attempt - 1)
            time.sleep(wait_s * random.uniform(0.5, 1))


class _WrongBytesError(Exception):
    """A short or otherwise other body than the manifest promises."""


def _is_final(error: Exception) -> bool:
    text = f"{type(error).__name__} {error}"
    return isinstance(error, _FINAL) or any(word in text for word in _FINAL_WORDS)


def _failure(place: str, error: Exception, attempts: int) -> CacheError:
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, FileNotFoundError):
        remedy = "No such object or bucket: check --cache, or prepare again."
    elif _is_final(error):
        remedy = "The store refuses: check the credentials and permissions for this address."
    else:
        remedy = f"Given up after {attempts} attempts: check network and store, then run again."
    return CacheError(f"{place}: cannot read ({reason[:200]}). {remedy}")


def _filesystem(url: str) -> tuple[Any, str]:
    import fsspec  # type: ignore[import-untyped]

    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        package = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs"}
        protocol = url.split(":", 1)[0]
        wanted = package.get(protocol, "the package named above")
        raise CacheError(f"{url}: {error}. Run `pip install {wanted}`.") from error
    except ValueError as error:
        raise CacheError(f"{url}: {error}. Expected e.g. s3://bucket/prefix.") from error


def _held(folder: Path) -> Iterable[tuple[int, int, Path]]:
    """(last use, bytes, path) of every shard file here, of all data sets."""
    for path in folder.glob("*/*/*/*.zarr/**/*"):
        with contextlib.suppress(FileNotFoundError):
            stat = path.lstat()
            if path.is_file():
                yield stat.st_mtime_ns, stat.st_size, path


def _rename_folder(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError as error:
        if target.is_dir():  # another process was faster, with the same bytes
            raise FileExistsError(str(target)) from error
        raise
