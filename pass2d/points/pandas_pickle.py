"""`.pkl` of pandas: the columns of a pickled table, read without executing the pickle.

Names in a pickle are never imported: every class and function becomes an inert object that records
its arguments, and the numbers are taken from the objects that form a table. The layouts of pandas
0.24 to 2.3 are known.
"""

from __future__ import annotations

import io
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray

from pass2d.common.errors import DataError
from pass2d.common.text import shown
from pass2d.points.columns import MOST_COLUMNS, PointColumns, error_line

_NUMBER = re.compile(r"[iu][1248]|f[248]|b1")
_NAMED = re.compile(
    r"pandas(\.[\w.]+)?\.(DataFrame|BlockManager|_?new_Index|Index|RangeIndex|Int64Index|UInt64Index"
    r"|_unpickle_block|new_block|NumericIndex|BlockPlacement|Flags)"
    r"|numpy\.(core|_core)\.(multiarray\._reconstruct|numeric\._frombuffer|multiarray\.scalar)"
    r"|numpy\.(ndarray|dtype)|(builtins|__builtin__)\.(slice|bytearray)|_codecs\.encode"
    r"|functools\.partial|copyreg\._reconstructor|copy_reg\._reconstructor|builtins\.object"
)
"""All that a pickled table names."""


_STEPS: dict[int, Any] = dict(pickle._Unpickler.dispatch)


class _Thing:
    """An inert object that a pickle creates, with its arguments and state."""

    name = ""
    arguments: tuple[Any, ...]
    state: Any
    __slots__ = ("arguments", "state")

    def __new__(cls, *arguments: Any) -> _Thing:
        made = object.__new__(cls)
        made.arguments, made.state = arguments, None
        return made

    def __init__(self, *arguments: Any) -> None:
        """The arguments are kept by ``__new__``."""

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Reader(pickle._Unpickler):
    """Creates inert objects for all calls; refuses what no table needs.

    It is Python's own pure-Python unpickler, whose steps can be limited: a small pickle must not
    take long.
    """

    read: Callable[[int], bytes]
    stack: list[Any]
    append: Callable[[Any], None]
    dispatch: ClassVar[dict[int, Any]] = dict(_STEPS)

    def __init__(self, path: Path, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._path, self._most = path, len(data)

    def find_class(self, module: str, name: str) -> Any:
        known = f"{module}.{name}"
        if _NAMED.fullmatch(known) is None:
            raise self._refused(f"it names {shown(known)}, which no table of numbers needs")
        # A class of this file's own: whatever the pickle does to it, no other file sees.
        return type("Thing", (_Thing,), {"name": known, "__slots__": ()})

    def persistent_load(self, pid: Any) -> NoReturn:
        raise self._refused("it refers to something outside itself")

    def _refused(self, why: str) -> DataError:
        return DataError(f"{self._path}: refused: {why}. Nothing of the pickle was run")

    def _other(self) -> NoReturn:
        raise self._refused("it takes a step that no table of numbers needs")

    def _entry(self) -> None:
        self._require_plain(self.stack[-2:-1])
        _STEPS[pickle.SETITEM[0]](self)

    def _entries(self) -> None:
        self._require_plain(self.stack[::2])
        _STEPS[pickle.SETITEMS[0]](self)

    def _whole(self) -> None:
        self._require_plain(self.stack[::2])
        _STEPS[pickle.DICT[0]](self)

    def _require_plain(self, keys: list[Any]) -> None:
        """Tuples of tuples would take years to hash."""
        if not all(isinstance(key, (str, int)) for key in keys):
            raise self._refused("it has keys that are neither words nor numbers")

    def _buffer(self) -> None:
        (size,) = struct.unpack("<Q", self.read(8))
        if size > self._most:
            raise self._refused("it claims more bytes than it has")
        self.append(bytes(self.read(size)))


_Reader.dispatch |= {
    pickle.SETITEM[0]: _Reader._entry,
    pickle.SETITEMS[0]: _Reader._entries,
    pickle.DICT[0]: _Reader._whole,
    pickle.BYTEARRAY8[0]: _Reader._buffer,
}
for _code in (
    *(pickle.EMPTY_SET, pickle.FROZENSET, pickle.ADDITEMS, pickle.EXT1, pickle.EXT2, pickle.EXT4),
    *(pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
):
    _Reader.dispatch[_code[0]] = _Reader._other


def read_pandas(path: Path, data: bytes) -> PointColumns:
    """Read the columns of numbers of a pickled table; its index and other columns are left out.

    Raises:
        DataError: Not such a pickle, damaged, or with names that no table needs.
    """
    try:
        table = _Reader(path, data).load()
        names, values = _columns(table)
    except DataError:
        raise
    except RecursionError as error:
        raise DataError(f"{path}: refused: a pickle that is nested too deeply") from error
    except Exception as error:
        raise DataError(
            f"{path}: not a pickled pandas table that can be read: {error_line(error)}. Written by "
            "another version? Write it as .csv with pandas itself"
        ) from error
    if len({len(one) for one in values}) > 1:
        raise DataError(f"{path}: not a pickled table: its columns have different lengths")
    return PointColumns(names=names, values=values)


def _columns(table: Any) -> tuple[tuple[str, ...], tuple[NDArray[Any], ...]]:
    """Names and values of the columns of numbers.

    Raises:
        ValueError, TypeError, KeyError, IndexError: It is no table, or one of another layout.
    """
    if not isinstance(table, _Thing) or not table.name.endswith(".DataFrame"):
        what = table.name if isinstance(table, _Thing) else type(table).__name__
        raise ValueError(f"it holds {shown(what)}, a DataFrame is expected")
    state = table.state
    if not isinstance(state, dict):
        raise TypeError("its DataFrame has no state")
    manager = state.get("_mgr", state.get("_data"))
    if not isinstance(manager, _Thing):
        raise TypeError("its DataFrame has no blocks")
    blocks, axes = _of_state(manager) if manager.state is not None else _of_call(manager)
    names = _names(axes[0])
    if len(names) > MOST_COLUMNS:
        raise ValueError(f"it has {len(names):,} columns")
    found: dict[int, NDArray[Any]] = {}
    for values, places in blocks:
        array = _array(values)
        if array is None:  # text, objects
            continue
        rows = np.arange(len(names))[_slice(places)]
        if array.ndim != 2 or len(array) != len(rows):
            raise ValueError(f"a block of shape {array.shape} for {len(rows)} columns")
        found |= dict(zip(rows.tolist(), array, strict=True))
    if not found:
        raise ValueError("no column holds numbers")
    chosen = sorted(found)
    return tuple(names[place] for place in chosen), tuple(found[place] for place in chosen)


def _of_state(manager: _Thing) -> tuple[list[tuple[Any, Any]], list[Any]]:
    """Blocks and axes as pandas up to 1.2 wrote them."""
    kept = manager.state[3]["0.14.1"]
    return [(block["values"], block["mgr_locs"]) for block in kept["blocks"]], kept["axes"]


def _of_call(manager: _Thing) -> tuple[list[tuple[Any, Any]], list[Any]]:
    """As pandas from 1.3 on does."""
    blocks, axes = manager.arguments[:2]
    return [(block.arguments[0], block.arguments[1]) for block in blocks], list(axes)


def _names(index: Any) -> list[str]:
    """Of the columns."""
    about = index.arguments[1]
    if "data" not in about:  # a range: columns without names
        return [str(k) for k in range(about["start"], about["stop"], about["step"])]
    data = about["data"]
    kept = _state_of(data)
    if isinstance(kept[-1], list):
        return [str(one)[:200] for one in kept[-1]]
    numbers = _array(data)
    assert numbers is not None
    return [str(one) for one in numbers.tolist()]


def _slice(places: Any) -> Any:
    """Which columns a block holds."""
    if isinstance(places, _Thing) and places.name.endswith(".BlockPlacement"):
        places = places.arguments[0]
    if isinstance(places, _Thing) and places.name.endswith(".slice"):
        start, stop, step = places.arguments
        return slice(start, stop, step)
    array = _array(places)
    if array is None or array.dtype.kind not in "iu":
        raise TypeError("a block without places")
    return array


def _state_of(array: Any) -> tuple[Any, ...]:
    if not isinstance(array, _Thing) or not isinstance(array.state, tuple):
        raise TypeError("an array without numbers")
    return array.state


def _array(thing: Any) -> NDArray[Any] | None:
    """The numbers of an array; None for one of objects.

    Raises:
        ValueError, TypeError: It is none, or its bytes are not what its shape says.
    """
    if isinstance(thing, _Thing) and thing.name.endswith("._frombuffer"):
        raw, kind, shape, order = thing.arguments
    else:
        _, shape, kind, is_fortran, raw = _state_of(thing)
        order = "F" if is_fortran else "C"
    dtype = _dtype(kind)
    if dtype is None:
        return None
    flat = np.frombuffer(_bytes(raw), dtype)
    if not isinstance(shape, tuple) or len(shape) > 2 or flat.size != int(np.prod(shape or (1,))):
        raise ValueError(f"an array of shape {shown(shape)} with {flat.size} numbers")
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _bytes(raw: Any) -> bytes:
    """Of an array; protocol 2 writes them as text."""
    if isinstance(raw, _Thing) and raw.name in ("_codecs.encode",):
        text, encoding = raw.arguments
        if encoding != "latin1":
            raise ValueError("bytes in an unknown encoding")
        raw = text
    if isinstance(raw, _Thing) and raw.name.endswith(".bytearray"):
        (raw,) = raw.arguments
    if isinstance(raw, str):
        return raw.encode("latin1")
    if not isinstance(raw, (bytes, bytearray)):
        raise TypeError("an array whose numbers are no bytes")
    return bytes(raw)


def _dtype(kind: Any) -> np.dtype[Any] | None:
    """The type of an array's numbers; None for objects."""
    if not isinstance(kind, _Thing) or not kind.name.endswith(".dtype"):
        raise TypeError("an array without a type")
    word = kind.arguments[0]
    if word in ("O8", "O"):
        return None
    if not isinstance(word, str) or _NUMBER.fullmatch(word) is None:
        return None  # times, text
    order = kind.state[1] if isinstance(kind.state, tuple) else "<"
    return np.dtype(word).newbyteorder(">" if order == ">" else "<")
