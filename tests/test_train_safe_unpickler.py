"""Hostile checkpoints of every kind: each gets a clear error, and nothing of it runs."""

from __future__ import annotations

import contextlib
import copyreg
import os
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pass2d.common.errors import CheckpointError
from pass2d.train.checkpoints.published.torch_file import open_torch_file
from pass2d.train.checkpoints.published.unpickler import Placeholder, TensorRef

PICKLE_STOP = b"."


class Evil:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def zip_file(path: Path, data: bytes, **storages: bytes) -> Path:
    """A file of torch.save around a hand-made pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        for key, memory in storages.items():
            archive.writestr(f"archive/data/{key}", memory)
    return path


def read(path: Path) -> Any:
    with open_torch_file(path) as file:
        return file.value


def _imported() -> set[str]:
    """All but the text encodings, which Python itself loads when it first meets one."""
    return {name for name in sys.modules if not name.startswith("encodings.")}


def assert_refused(path: Path, marker: Path, *, match: str = "refused") -> None:
    modules = _imported()
    with pytest.raises(CheckpointError, match=match) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not marker.exists()
    assert _imported() == modules


def global_op(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


@pytest.mark.parametrize("protocol", range(6))
def test_a_call_of_the_shell_is_refused(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "ran"
    for number, evil in enumerate(
        (
            Evil(os.system, f"touch {marker}"),
            Evil(eval, f"open({str(marker)!r}, 'w')"),
            Evil(exec, f"open({str(marker)!r}, 'w')"),
            Evil(getattr, Evil(__import__, "os"), "system"),
            Evil(os.popen, f"touch {marker}"),
            Evil(open, str(marker), "w"),
            Evil(Path(marker).touch),
        )
    ):
        hidden = {"state_dict": OrderedDict(), "epoch": 3, "extra": [{"deep": (evil,)}]}
        for name, value in (("plain", evil), ("hidden", hidden)):
            path = tmp_path / f"{name}{number}.ckpt"
            assert_refused(zip_file(path, pickle.dumps(value, protocol=protocol)), marker)


@pytest.mark.parametrize("is_zip", [True, False])
def test_files_that_torch_itself_would_run_are_refused(tmp_path: Path, is_zip: bool) -> None:
    marker = tmp_path / "ran"
    path = tmp_path / "evil.ckpt"
    value = {
        "state_dict": {"w": torch.zeros(3)},
        "hyper_parameters": Evil(os.system, f"touch {marker}"),
    }
    torch.save(value, path, _use_new_zipfile_serialization=is_zip)
    assert_refused(path, marker, match="posix.system")


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("nt", "system"),
        ("subprocess", "Popen"),
        ("builtins", "eval"),
        ("__builtin__", "getattr"),
        ("builtins", "__import__"),
        ("functools", "partial"),
        ("importlib", "import_module"),
        ("ctypes", "CDLL"),
        ("types", "FunctionType"),
        ("copyreg", "add_extension"),
        ("torch.serialization", "os.system"),
        ("torch", "serialization.os.system"),
        ("collections", "abc.sys.modules"),
    ],
)
def test_names_that_could_run_code_are_refused_even_uncalled(
    tmp_path: Path, module: str, name: str
) -> None:
    marker = tmp_path / "ran"
    path = zip_file(tmp_path / "a.ckpt", b"\x80\x02" + global_op(module, name) + PICKLE_STOP)
    assert_refused(path, marker, match="could run code")
    stacked = b"\x80\x04" + text(module) + text(name) + b"\x93" + PICKLE_STOP
    assert_refused(zip_file(tmp_path / "b.ckpt", stacked), marker, match="could run code")


CALL = b"(" + text("touch ran") + b"t"
HOSTILE_OPERATIONS = {
    "a function of a library": global_op("torch.hub", "load") + CALL + b"R",
    "a function of the file's own program": global_op("__main__", "run") + CALL + b"R",
    "a function as a class": global_op("numpy.testing", "runstring") + CALL + b"\x81",
    "a function as a class with keywords": global_op("numpy", "load") + CALL + b"}\x92",
    "an old-style instance": b"(" + text("touch ran") + b"inumpy\nload\n",
    "an old-style object": b"(" + global_op("numpy", "load") + text("touch ran") + b"o",
    "a computed function": global_op("a.b", "Maker") + b")R" + CALL + b"R",
    "a function inside a list": b"]" + CALL + b"R",
    "state for a class": global_op("a.b", "Thing") + b"}b",
    "state for a list": b"]}b",
    "a new class for an object": global_op("a.b", "Thing")
    + b")\x81}"
    + text("__class__")
    + global_op("a.b", "Other")
    + b"sb",
    "a setstate for an object": global_op("a.b", "Thing")
    + b")\x81}"
    + text("__setstate__")
    + b"Nsb",
    "a named persistent object": b"Pmodule\n",
    "a persistent module": text("module") + b"\x85Q",
    "a persistent object that is no tuple": text("storage") + b"Q",
    "memory of an unknown class": b"("
    + text("storage")
    + global_op("a.b", "Storage")
    + text("0")
    + text("cpu")
    + b"K\x01tQ",
    "an extension code": b"\x82\x01",
    "a wide extension code": b"\x84\x01\x00\x00\x00",
    "an out-of-band buffer": b"\x97",
    "a list as a key": b"}]Ns",
    "a dict as a key": b"}}Ns",
    "nested tuples as a key, whose hash never ends": b"}("
    + b"N"
    + b"t"
    + b"".join(b"2\x86" for _ in range(60))
    + b"Ns",
}


@pytest.mark.parametrize("what", list(HOSTILE_OPERATIONS))
def test_hostile_operations_are_refused(tmp_path: Path, what: str) -> None:
    data = b"\x80\x04" + HOSTILE_OPERATIONS[what] + PICKLE_STOP
    assert_refused(zip_file(tmp_path / "a.ckpt", data), tmp_path / "ran")


def test_extension_codes_are_not_looked_up(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    copyreg.add_extension("posix", "system", 77)
    try:
        data = b"\x80\x02\x82\x4d" + text(f"touch {marker}") + b"\x85R" + PICKLE_STOP
        assert_refused(zip_file(tmp_path / "a.ckpt", data), marker)
    finally:
        copyreg.remove_extension("posix", "system", 77)


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"abc.",  # bytes of 2^60
        b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"abc.",
        b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"\x01.",
        b"\x80\x02\x8b" + struct.pack("<i", -1) + b".",
        b"I" + b"9" * 100_000 + b"\n.",
        b"\x80\x02}",  # no end
        b"\x80\x02" + b"0" * 5 + b".",
        b"\x80\x02S'a\\o'\n.",  # an escape that does not exist
        b"\xff\xfe",
        b"",
        b"(" * 100_000 + b".",
    ],
)
def test_damaged_pickles_are_one_clear_error(tmp_path: Path, data: bytes) -> None:
    path = zip_file(tmp_path / "a.ckpt", data)
    assert_refused(path, tmp_path / "ran", match="pickle is damaged|pickle ends too early")


def test_a_small_file_does_not_unfold_into_a_huge_one(tmp_path: Path) -> None:
    pairs = b"](" + b"(K\x01K\x02t" * 20_000 + b"e\x85q\x00"
    copies = (global_op("collections", "OrderedDict") + b"h\x00R") * 1_000
    data = b"\x80\x02" + pairs + b"(" + copies + b"t" + PICKLE_STOP
    assert_refused(zip_file(tmp_path / "a.ckpt", data), tmp_path / "ran", match="unfolds")


def tensor_pickle(*, numel: int, shape: bytes, stride: bytes, offset: bytes = b"K\x00") -> bytes:
    storage = text("storage") + global_op("torch", "FloatStorage") + text("0") + text("cpu")
    count = b"\x8a\x09" + numel.to_bytes(9, "little")
    build = global_op("torch._utils", "_rebuild_tensor_v2")
    tensor = build + b"((" + storage + count + b"tQ" + offset + shape + stride + b"\x89Nt" + b"R"
    return b"\x80\x02" + tensor + PICKLE_STOP


BIG = b"\x8a\x06" + (2**40).to_bytes(6, "little")


@pytest.mark.parametrize(
    "data",
    [
        tensor_pickle(numel=2**60, shape=BIG + b"\x85", stride=b"K\x01\x85"),
        tensor_pickle(numel=4, shape=BIG + b"\x85", stride=b"K\x00\x85"),  # unfolded by stride 0
        tensor_pickle(numel=4, shape=b"K\x04\x85", stride=b"K\x02\x85"),
        tensor_pickle(numel=4, shape=b"K\x04\x85", stride=b"K\x01\x85", offset=b"K\x01"),
        tensor_pickle(numel=5, shape=b"K\x05\x85", stride=b"K\x01\x85"),
    ],
)
def test_tensors_larger_than_their_memory_are_refused(tmp_path: Path, data: bytes) -> None:
    path = zip_file(tmp_path / "a.ckpt", data, **{"0": bytes(16)})
    with open_torch_file(path) as file:
        assert isinstance(file.value, TensorRef)
        with pytest.raises(CheckpointError, match=r"does not lie within|should have"):
            file.tensor(file.value)


def test_packed_entries_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.ckpt"
    with zipfile.ZipFile(path, "w", compression=zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data/0", bytes(50_000_000))
    assert path.stat().st_size < 100_000
    assert_refused(path, tmp_path / "ran", match="packed")


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/outside", "archive/../../outside", "C:/outside", "a\\..\\b", "//x"]
)
def test_entries_that_point_out_of_the_file_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        entry = zipfile.ZipInfo("x")
        entry.filename = name
        archive.writestr(entry, b"x")
    assert_refused(path, tmp_path / "outside", match="points outside the file")


def test_entries_that_overlap_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data/0", bytes(100_000))
        big = archive.infolist()[1]
        for key in range(1, 50):  # the directory lists the same bytes again and again
            twin = zipfile.ZipInfo(f"archive/data/{key}")
            for part in ("header_offset", "CRC", "file_size", "compress_size"):
                setattr(twin, part, getattr(big, part))
            archive.filelist.append(twin)
            archive.NameToInfo[twin.filename] = twin
    assert_refused(path, tmp_path / "ran", match="overlap")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"hello", bytes(1000)])
def test_other_files_are_one_clear_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(content)
    assert_refused(path, tmp_path / "ran", match="checkpoint")
    assert_refused(tmp_path / "absent.ckpt", tmp_path / "ran", match="no such checkpoint")
    assert_refused(tmp_path, tmp_path / "ran", match="not readable")


def test_a_zip_file_of_something_else_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", b"hello")
    assert_refused(path, tmp_path / "ran", match="not one written by torch.save")


class Settings(dict[str, Any]):
    """As EasyDict: a dict of a class of its own, with state."""

    def __init__(self, **values: Any) -> None:
        super().__init__(values)
        self.__dict__.update(values)


class Watcher:
    """As a training callback."""

    def __setstate__(self, state: Any) -> None:
        raise AssertionError("restoring an object would run its code")


def sample() -> dict[str, Any]:
    shared = torch.arange(12.0)
    return {
        "state_dict": OrderedDict(
            weight=torch.randn(3, 4),
            turned=torch.randn(5, 6).T[1:4],
            part=shared[2:8].view(2, 3),
            counter=torch.tensor(7),
            half=torch.randn(3).half(),
            nothing=torch.zeros(0, 3),
            parameter=torch.nn.Parameter(torch.randn(2)),
        ),
        "callbacks": {Watcher: {"best": torch.tensor(0.5)}},
        "hyper_parameters": {"config": Settings(scales=[2, 4], path="x", ratio=0.5, none=None)},
        "set": {1, 2},
        "bytes": b"\x00\xff",
        "watcher": Watcher(),
        "place": Path("a"),
        "device": torch.device("cpu"),
        "dtype": torch.float32,
    }


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_ordinary_files_of_both_formats_are_read(
    tmp_path: Path, is_zip: bool, protocol: int
) -> None:
    value = sample()
    path = tmp_path / "a.ckpt"
    torch.save(value, path, _use_new_zipfile_serialization=is_zip, pickle_protocol=protocol)
    with open_torch_file(path) as file:
        assert list(file.value) == list(value)
        assert list(file.value["state_dict"]) == list(value["state_dict"])
        for name, reference in file.value["state_dict"].items():
            read_back = file.tensor(reference)
            assert torch.equal(read_back, value["state_dict"][name])
            assert read_back.dtype == value["state_dict"][name].dtype
        config = file.value["hyper_parameters"]["config"]
        assert isinstance(config, Placeholder)
        assert config.kind.name == "Settings"
        assert config.entries == {"scales": [2, 4], "path": "x", "ratio": 0.5, "none": None}
        assert isinstance(file.value["watcher"], Placeholder)
        assert file.value["bytes"] == b"\x00\xff"
        (callback,) = file.value["callbacks"]
        assert callback.name == "Watcher"


@pytest.mark.parametrize("is_zip", [True, False])
def test_truncated_files_are_one_clear_error(tmp_path: Path, is_zip: bool) -> None:
    path = tmp_path / "whole.ckpt"
    torch.save({"state_dict": {"w": torch.randn(500)}}, path, _use_new_zipfile_serialization=is_zip)
    whole = path.read_bytes()
    for share in (0.05, 0.3, 0.6, 0.95, 0.999):
        short = tmp_path / "short.ckpt"
        short.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(CheckpointError), open_torch_file(short) as file:
            file.tensor(file.value["state_dict"]["w"])


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), is_zip=st.booleans())
def test_random_damage_never_does_more_than_a_clear_error(
    tmp_path: Path, data: st.DataObject, is_zip: bool
) -> None:
    path = tmp_path / "damaged.ckpt"
    value = {"state_dict": {"w": torch.arange(3.0)}, "s": Settings(a=1), "p": Path("a")}
    torch.save(value, path, _use_new_zipfile_serialization=is_zip)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(CheckpointError), open_torch_file(path) as file:
        for reference in tensors_in(file.value):
            file.tensor(reference)


def tensors_in(value: Any) -> list[TensorRef]:
    if isinstance(value, dict):
        return [reference for item in value.values() for reference in tensors_in(item)]
    return [value] if isinstance(value, TensorRef) else []
