"""Ways in which a file of a user can be wrong: seeded, one file at a time, in place."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from harm_inside import alter_inside

HARMS: dict[str, Callable[[Path, random.Random, Path], None]] = {}
"""By name: (file, choices, an innocent folder elsewhere) -> None."""
STRUCTURAL = frozenset({"missing", "empty", "folder", "fifo", "broken link", "foreign", "noise"})
"""After these the file cannot be taken for another valid one: silence is never right."""
TEXTS = (".txt", ".json", ".toml", ".yaml", ".jsonl", ".csv")
FOREIGN = (
    b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4,
    b"PK\x03\x04" + bytes(300),
    b"%PDF-1.4\n" + b"stream " * 99,
    b"<!doctype html><title>404 Not Found</title>\n" * 9,
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 1919632\n",
    b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x01a\x94K\x01s.",
    b"\x1f\x8b\x08\x00" + bytes(40),
    b"{}\n",
    b"\xef\xbb\xbf\xff\xfe",
)


def harm(name: str):
    """Register a harm."""

    def register(function: Callable[[Path, random.Random, Path], None]):
        HARMS[name] = function
        return function

    return register


@harm("truncate")
def _truncate(file: Path, choose: random.Random, _: Path) -> None:
    os.truncate(file, choose.randrange(max(1, file.stat().st_size)))


@harm("flip")
def _flip(file: Path, choose: random.Random, _: Path) -> None:
    data = bytearray(file.read_bytes())
    for _bit in range(choose.choice((1, 1, 1, 8, 60))):
        if data:
            data[choose.randrange(len(data))] ^= 1 << choose.randrange(8)
    file.write_bytes(data)


@harm("flip head")
def _flip_head(file: Path, choose: random.Random, _: Path) -> None:
    """Where headers lie."""
    data = bytearray(file.read_bytes())
    if data:
        data[choose.randrange(min(len(data), 120))] = choose.randrange(256)
    file.write_bytes(data)


@harm("flip tail")
def _flip_tail(file: Path, choose: random.Random, _: Path) -> None:
    """Where footers and indices lie."""
    data = bytearray(file.read_bytes())
    if data:
        data[-1 - choose.randrange(min(len(data), 120))] = choose.randrange(256)
    file.write_bytes(data)


@harm("zeros")
def _zeros(file: Path, choose: random.Random, _: Path) -> None:
    """A block that a crash of the machine left unwritten."""
    data = bytearray(file.read_bytes())
    start = choose.randrange(len(data) + 1)
    length = min(len(data) - start, choose.choice((16, 512, 1 << 20)))
    data[start : start + length] = bytes(length)
    file.write_bytes(data)


@harm("twice")
def _twice(file: Path, choose: random.Random, _: Path) -> None:
    """A block that stands there twice."""
    data = file.read_bytes()
    start = choose.randrange(len(data) + 1)
    end = min(len(data), start + choose.choice((1, 16, 700)))
    file.write_bytes(data[:end] + data[start:end] + data[end:])


@harm("more")
def _more(file: Path, choose: random.Random, _: Path) -> None:
    with file.open("ab") as stream:
        stream.write(choose.randbytes(choose.choice((1, 3, 16, 4096))))


@harm("noise")
def _noise(file: Path, choose: random.Random, _: Path) -> None:
    file.write_bytes(choose.randbytes(max(7, file.stat().st_size | 1)))


@harm("empty")
def _empty(file: Path, choose: random.Random, _: Path) -> None:
    file.write_bytes(b"")


@harm("missing")
def _missing(file: Path, choose: random.Random, _: Path) -> None:
    file.unlink()


@harm("foreign")
def _foreign(file: Path, choose: random.Random, _: Path) -> None:
    file.write_bytes(choose.choice(FOREIGN))


@harm("gzip")
def _gzip(file: Path, choose: random.Random, _: Path) -> None:
    file.write_bytes(gzip.compress(file.read_bytes(), mtime=0))


@harm("folder")
def _folder(file: Path, choose: random.Random, _: Path) -> None:
    file.unlink()
    file.mkdir()


@harm("fifo")
def _fifo(file: Path, choose: random.Random, _: Path) -> None:
    """Opening it waits for ever."""
    file.unlink()
    os.mkfifo(file)


@harm("broken link")
def _broken_link(file: Path, choose: random.Random, _: Path) -> None:
    file.unlink()
    file.symlink_to(choose.choice(("nowhere", file.name)))


@harm("folder elsewhere")
def _folder_elsewhere(file: Path, choose: random.Random, innocent: Path) -> None:
    """A link to a folder that nobody may touch, in place of a folder on the way."""
    place = file.parent if file.parent != innocent.parent else file
    if place == file:
        file.unlink()
    else:
        shutil.rmtree(place)
    place.symlink_to(innocent)


_NUMBER = re.compile(rb"(?<![\w.])-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_ODD_NUMBERS = (
    *(b"1e999", b"-1e308", b"NaN", b"Infinity", b"-1", b"0", b"9" * 30, b"9" * 5000),
    *(b"1.5", b"0x10", b"true", b"null", b'"7"', b"[]", b"{}", b"1e-320", b""),
)


@harm("number")
def _number(file: Path, choose: random.Random, _: Path) -> None:
    """Another number in a text; in what is no text, one of its words of four bytes."""
    data = file.read_bytes()
    found = list(_NUMBER.finditer(data)) if file.suffix in TEXTS else []
    if found:
        match = choose.choice(found)
        data = data[: match.start()] + choose.choice(_ODD_NUMBERS) + data[match.end() :]
    elif len(data) >= 4:
        start = choose.randrange(len(data) - 3)
        word = choose.choice((b"\xff" * 4, b"\xff\xff\xff\x7f", b"\0\0\x80\x7f", b"\0\0\xc0\x7f"))
        data = data[:start] + word + data[start + 4 :]
    file.write_bytes(data)


_ODD_VALUES = (
    *(None, True, -1, 0, 10**400, 1.5, 1e308, "", "../../x", "/etc/passwd", "a\nb", "\u2028"),
    *("x" * 20_000, [], {}, [[]], [{}], {"a": {}}, "a<!--<script>b", "\ud800", "\0", "🚗", 2**63),
)


@harm("value")
def _value(file: Path, choose: random.Random, _: Path) -> None:
    """A value of another type, a key that is gone, or a new one, somewhere in a JSON document.

    Files that are no JSON get a name in the middle.
    """
    data = file.read_bytes()
    try:
        document = json.loads(data)
    except ValueError:
        start = choose.randrange(len(data) + 1)
        word = choose.choice((b"[[[[", b'"""', b"= 1\n", b"\x1b[31m", b"x" * 9000, b"\n\n", b"../"))
        file.write_bytes(data[:start] + word + data[start:])
        return
    holders = [holder for holder in _holders(document) if holder]
    if not holders:
        file.write_bytes(json.dumps(choose.choice(_ODD_VALUES)).encode())
        return
    holder = choose.choice(holders)
    key = choose.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    action = choose.randrange(6)
    if action == 0:
        del holder[key]
    elif action == 1 and isinstance(holder, dict):
        holder["x" * choose.choice((1, 9000))] = choose.choice(_ODD_VALUES)
    else:
        holder[key] = choose.choice(_ODD_VALUES)
    file.write_text(json.dumps(document))


def _holders(value: object) -> list:
    """Every list and dict of a document."""
    found, todo = [], [value]
    while todo:
        value = todo.pop()
        if isinstance(value, dict | list):
            found.append(value)
            todo.extend(value.values() if isinstance(value, dict) else value)
    return found


@harm("depth")
def _depth(file: Path, choose: random.Random, _: Path) -> None:
    """Brackets within brackets, a million times, as the whole file or somewhere in it."""
    deep = choose.choice((b"[", b'{"a":', b"[[")) * choose.choice((2000, 1_000_000))
    data = file.read_bytes()
    start = choose.choice((0, choose.randrange(len(data) + 1)))
    file.write_bytes(data[:start] + deep + data[start:])


@harm("line")
def _line(file: Path, choose: random.Random, _: Path) -> None:
    """Lines of a text in another order, gone, or of another system."""
    lines = file.read_bytes().split(b"\n")
    action = choose.randrange(4)
    if action == 0:
        choose.shuffle(lines)
    elif action == 1:
        lines.pop(choose.randrange(len(lines)))
    elif action == 2:
        lines = [line + b"\r" for line in lines]
    else:
        lines.insert(choose.randrange(len(lines)), choose.choice(lines))
    file.write_bytes(b"\n".join(lines))


@harm("inside")
def _inside(file: Path, choose: random.Random, _: Path) -> None:
    """Other contents of a packed file or a recording; of a text, another value or number."""
    if not alter_inside(file, choose):
        choose.choice((_value, _number))(file, choose, file)


@harm("renamed")
def _renamed(file: Path, choose: random.Random, _: Path) -> None:
    """A name that no tool gave it, or that another file could have."""
    digits = re.sub(r"\d(?=\D*$)", lambda found: str((int(found[0]) + 7) % 10), file.name)
    odd = (digits, file.name.upper(), f" {file.name}", f"{file.name}.part", f"._{file.name}")
    name = choose.choice([one for one in odd if not (file.parent / one).exists()])
    file.rename(file.parent / name)
