"""Reads both formats of torch.save safely: zip (since 1.6) and the older one.

Everything is checked against the size of the file, so that nothing in it can make us allocate more
than it contains.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pass2d.common.errors import CheckpointError
from pass2d.common.files import NO_PERMISSION, open_file
from pass2d.train.checkpoints.published.unpickler import TensorRef, read_pickle

_ZIP_MAGIC = b"PK\x03\x04"
_PROTO = 0x80
"""First byte of every pickle that torch.save writes."""
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_MAX_LINE = 2**16
_UNREADABLE = (
    *(OSError, ValueError, EOFError, NotImplementedError),
    *(struct.error, zipfile.BadZipFile),
)


@dataclass(frozen=True, kw_only=True)
class TorchFile:
    """The contents of a file of torch.save."""

    path: Path
    value: Any
    """Plain values; tensors as `TensorRef`."""
    memory_of: Callable[[str], bytes | memoryview | None]
    """Raw memory by key, as stored in the file."""

    def tensor(self, reference: TensorRef) -> Tensor:
        """Read one tensor, of the type and shape in ``reference``, into memory of its own.

        Raises:
            CheckpointError: its memory is missing, or smaller than its shape says.
        """
        storage = reference.storage
        self._check_extent(reference)
        memory = self.memory_of(storage.key)
        expected = storage.numel * storage.dtype.itemsize
        if memory is None or len(memory) != expected:
            found = "nothing" if memory is None else f"{len(memory)} bytes"
            raise CheckpointError(
                f"{self.path}: tensor memory {storage.key!r} should have {expected} bytes, found "
                f"{found}. The file is truncated or damaged."
            )
        if 0 in reference.shape:
            return torch.empty(reference.shape, dtype=storage.dtype)
        flat = torch.frombuffer(bytearray(memory), dtype=storage.dtype)
        view = flat.as_strided(reference.shape, reference.stride, reference.offset)
        return view.clone(memory_format=torch.contiguous_format)

    def _check_extent(self, reference: TensorRef) -> None:
        """Whether a tensor lies within its memory and is not expanded by strides of 0."""
        numel = reference.storage.numel
        steps = zip(reference.shape, reference.stride, strict=True)
        last = reference.offset + sum((size - 1) * stride for size, stride in steps)
        if 0 not in reference.shape and (last >= numel or math.prod(reference.shape) > numel):
            raise CheckpointError(
                f"{self.path}: a tensor of shape {reference.shape} does not lie within its memory "
                f"of {numel} values. The file is damaged."
            )


class _Window:
    """Bytes as a file whose reads never return more than is left."""

    def __init__(self, memory: memoryview) -> None:
        self.memory = memory
        self.place = 0

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes; at most those left."""
        stop = len(self.memory) if size < 0 else min(self.place + size, len(self.memory))
        start, self.place = self.place, stop
        return bytes(self.memory[start:stop])

    def readline(self) -> bytes:
        """The rest of the line, including its end; truncated at the longest valid length."""
        ahead = bytes(self.memory[self.place : self.place + _MAX_LINE])
        return self.read(ahead.find(b"\n") + 1 or len(ahead))

    def tell(self) -> int:
        """Bytes read so far."""
        return self.place


@contextlib.contextmanager
def open_torch_file(path: Path) -> Iterator[TorchFile]:
    """Open a file of torch.save and read its pickle; tensors are read on demand.

    Raises:
        CheckpointError: the file is missing, not from torch.save, damaged or hostile.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(os.fdopen(open_file(path), "rb"))
            if file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC:
                archive = stack.enter_context(zipfile.ZipFile(file))
                opened = _open_zip(path, archive)
            else:
                whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                opened = _open_legacy(path, memoryview(whole))
        except FileNotFoundError:
            raise CheckpointError(f"{path}: no such checkpoint file") from None
        except PermissionError:
            raise CheckpointError(f"{path}: {NO_PERMISSION}") from None
        except _UNREADABLE as error:
            raise _damaged(path, error) from error
        yield opened


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path}: not readable as a checkpoint ({error}). Copy it again.")


def _open_zip(path: Path, archive: zipfile.ZipFile) -> TorchFile:
    entries = {info.filename: info for info in archive.infolist()}
    _check_entries(path, archive.infolist())
    folders = [name.removesuffix("/data.pkl") for name in entries if name.endswith("/data.pkl")]
    if len(folders) != 1:
        raise CheckpointError(
            f"{path}: a zip file, but not one written by torch.save: "
            f"{len(folders)} entries data.pkl"
        )
    (folder,) = folders

    def content(name: str) -> bytes | None:
        try:
            return archive.read(entries[name]) if name in entries else None
        except _UNREADABLE as error:
            raise _damaged(path, error) from error

    if content(f"{folder}/byteorder") not in (None, b"little"):
        raise CheckpointError(f"{path}: written on a big-endian machine; not supported")
    data = content(f"{folder}/data.pkl") or b""
    read = read_pickle(_Window(memoryview(data)), where=str(path))
    return TorchFile(
        path=path, value=read.value, memory_of=lambda key: content(f"{folder}/data/{key}")
    )


def _check_entries(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Refuse what torch.save does not write: it stores entries uncompressed, one after another."""
    for info in entries:
        first, *_ = parts = info.filename.split("/")
        is_inside = first and ".." not in parts and ":" not in first
        if not is_inside or "\\" in info.filename:
            raise CheckpointError(
                f"{path}: refused: its entry {info.filename[:80]!r} points outside the file"
            )
        is_plain = info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1
        if not is_plain or info.file_size != info.compress_size:
            raise CheckpointError(
                f"{path}: refused: its entry {info.filename[:80]!r} is packed or encrypted, which "
                "torch.save never does; unpacked it could fill the memory"
            )
    total = sum(info.file_size for info in entries)
    if total > path.stat().st_size or len({info.filename for info in entries}) != len(entries):
        raise CheckpointError(
            f"{path}: refused: its entries overlap: {total} bytes in a smaller file"
        )


def _open_legacy(path: Path, memory: memoryview) -> TorchFile:
    """Pickles of magic number, protocol, system, value and keys; then the memory of each key."""
    where = str(path)
    window = _Window(memory)
    if memory[0] != _PROTO or read_pickle(window, where=where).value != _LEGACY_MAGIC:
        raise CheckpointError(
            f"{path}: not a checkpoint: not in either format of torch.save. Expected a .ckpt or "
            ".pth of published code as downloaded"
        )
    if read_pickle(window, where=where).value != _LEGACY_PROTOCOL:
        raise CheckpointError(f"{path}: an unknown version of torch.save's old format")
    system = read_pickle(window, where=where).value
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise CheckpointError(f"{path}: written on a big-endian machine; not supported")
    content = read_pickle(window, where=where)
    keys = read_pickle(window, where=where).value
    if not isinstance(keys, list) or {*map(str, keys)} != set(content.storages):
        raise CheckpointError(f"{path}: the list of its tensor memory does not fit its tensors")
    memories: dict[str, memoryview] = {}
    for key in keys:
        (numel,) = struct.unpack("<q", window.read(8).ljust(8, b"\xff"))
        size = max(numel, 0) * content.storages[key].dtype.itemsize
        memories[key] = memory[window.place : window.place + size]
        window.place += size
    return TorchFile(path=path, value=content.value, memory_of=memories.get)
