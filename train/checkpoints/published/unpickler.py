"""Reads a pickle without executing it: builds tensors and plain containers, and calls nothing.

Python's own unpickler imports what a file names and calls it. This one interprets the parsed
opcodes itself: a name becomes a `Reference`, a call or an instance a `Placeholder`, and tensors are
described, not allocated. `torch.load` with such an unpickler executes nothing either, but a small
file can make it compute or allocate without end, and the user does not learn what the file
contains. Sets become lists, so that nothing is hashed but keys of dicts, and those are checked.
"""

from __future__ import annotations

import pickletools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any, NoReturn, Protocol, cast

import torch

from pass2d.common.errors import CheckpointError
from pass2d.train.checkpoints.published.pickle_names import (
    ENCODE,
    ORDERED_DICT,
    REBUILD_PARAMETER,
    REBUILD_TENSOR,
    STORAGE_DTYPES,
    is_callable_inertly,
    is_mentionable,
)

_MAX_OPERATIONS = 5_000_000
"""Of one pickle; published checkpoints need some ten thousand."""
_MAX_COPIED = 1_000_000
"""Values copied from one container to another; a small file must not unfold into a huge one."""
_MAX_SHOWN = 80


class PickleSource(Protocol):
    """The source of bytes. A read past the end returns what is left, and allocates no more."""

    def read(self, size: int, /) -> bytes:
        """The next bytes."""

    def readline(self) -> bytes:
        """The rest of the line, its end included."""

    def tell(self) -> int:
        """Bytes read so far."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A class or function named in the file, which is never imported."""

    module: str
    name: str

    @property
    def key(self) -> tuple[str, str]:
        """Module and name."""
        return self.module, self.name

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"[:_MAX_SHOWN]


@dataclass(kw_only=True, eq=False, slots=True)
class Placeholder:
    """An object of a class that is not imported, with its arguments and state."""

    kind: Reference
    arguments: tuple[Any, ...] = ()
    items: list[Any] = field(default_factory=list)
    """If it is some list."""
    entries: dict[Any, Any] = field(default_factory=dict)
    """If it is some dict, e.g. an EasyDict."""
    state: Any = None


@dataclass(frozen=True, kw_only=True)
class StorageRef:
    """Raw memory elsewhere in the file."""

    key: str
    dtype: torch.dtype
    numel: int


@dataclass(frozen=True, kw_only=True)
class TensorRef:
    """A tensor, not yet read."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Content:
    """The contents of one pickle."""

    value: Any
    """Plain values, `Reference`, `Placeholder` and `TensorRef`."""
    storages: dict[str, StorageRef]
    """All memory that its tensors lie in, by key."""


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
# fmt: off
_LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE",
    "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
}
# fmt: on
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": list,
}
_TUPLE_SIZES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NOTHING = {"PROTO", "FRAME"}
_DAMAGE = (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError)


def read_pickle(source: PickleSource, *, where: str) -> Content:
    """Read one pickle.

    Args:
        source: positioned at its first byte; afterwards, after its last.
        where: names the file in errors.

    Raises:
        CheckpointError: it is damaged, or contains more than data.
    """
    machine = _Machine(where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # the parser only warns of a damaged escape in a name
            for opcode, argument, _ in pickletools.genops(cast("IO[bytes]", source)):
                if opcode.name == "STOP":
                    return Content(value=machine.result(), storages=machine.storages)
                machine.step(opcode.name, argument)
    except (*_DAMAGE, Warning) as error:
        shown = " ".join(str(error)[:_MAX_SHOWN].split())
        raise CheckpointError(
            f"{where}: its pickle is damaged ({shown}). Copy the file again."
        ) from error
    raise CheckpointError(f"{where}: its pickle ends too early. Copy the file again.")


class _Machine:
    """The stack machine of the pickle protocol, without calls and imports."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, StorageRef] = {}
        self.copied = self.steps = 0
        self.actions: dict[str, Callable[[Any], None]] = {
            "MARK": self._mark,
            "POP": self._pop,
            "POP_MARK": self._pop_mark,
            "DUP": lambda _: self.stack.append(self.stack[-1]),
            "MEMOIZE": lambda _: self._put(len(self.memo)),
            "GLOBAL": self._global,
            "STACK_GLOBAL": lambda _: self._stack_global(),
            "REDUCE": lambda _: self._call_with(self._take_tuple()),
            "NEWOBJ": lambda _: self._call_with(self._take_tuple()),
            "NEWOBJ_EX": lambda _: self._new_with_keywords(),
            "INST": self._instance,
            "OBJ": lambda _: self._object(),
            "BUILD": lambda _: self._build(),
            "BINPERSID": lambda _: self._persistent(),
            "LIST": lambda _: self._push(self._since_mark()),
            "TUPLE": lambda _: self._push(tuple(self._since_mark())),
            "FROZENSET": lambda _: self._push(self._since_mark()),
            "DICT": lambda _: self._dict(),
            "APPEND": lambda _: self._extend([self.stack.pop()]),
            "APPENDS": lambda _: self._extend(self._since_mark()),
            "ADDITEMS": lambda _: self._extend(self._since_mark()),
            "SETITEM": lambda _: self._update([self.stack.pop(-2), self.stack.pop()]),
            "SETITEMS": lambda _: self._update(self._since_mark()),
        }
        self.actions |= dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), self._put)
        self.actions |= dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), self._get)

    def step(self, name: str, argument: Any) -> None:
        """Carry out one operation."""
        self.steps += 1
        if self.steps > _MAX_OPERATIONS:
            self.refuse("takes more steps to read than any checkpoint does")
        if name in self.actions:
            self.actions[name](argument)
        elif name in _LITERALS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in _TUPLE_SIZES:
            size = _TUPLE_SIZES[name]
            self.stack[-size:] = [tuple(self._top(size))]
        elif name not in _NOTHING:
            # Extension codes, named persistent ids and out-of-band buffers.
            self.refuse(f"uses the pickle operation {name}, which no torch file needs")

    def result(self) -> Any:
        """What the pickle describes."""
        return self.stack.pop()

    def refuse(self, what: str) -> NoReturn:
        """Stop reading: no ordinary file does this."""
        raise CheckpointError(
            f"{self.where}: refused: the file {what}. None of it was executed. A published "
            "checkpoint holds tensors and plain settings only: get it from its authors' page again."
        )

    def _top(self, size: int) -> list[Any]:
        if len(self.stack) < size:
            raise IndexError("pop from an empty stack")
        return self.stack[-size:]

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    def _mark(self, _: Any) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def _since_mark(self) -> list[Any]:
        taken, self.stack = self.stack, self.marked.pop()
        return taken

    def _pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._since_mark()

    def _pop_mark(self, _: Any) -> None:
        self._since_mark()

    def _put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def _get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._name(module, name)

    def _stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError("a name that is not text")
        self._name(module, name)

    def _name(self, module: str, name: str) -> None:
        reference = Reference(module=module, name=name)
        if not is_mentionable(module, name):
            self.refuse(f"wants to use {reference}, which could run code")
        self.stack.append(reference)

    def _take_tuple(self) -> tuple[Any, ...]:
        arguments = self.stack.pop()
        if not isinstance(arguments, tuple):
            raise TypeError("arguments that are not a tuple")
        return arguments

    def _new_with_keywords(self) -> None:
        keywords = self.stack.pop()
        if not isinstance(keywords, dict):
            raise TypeError("keywords that are not a dict")
        arguments = self._take_tuple()
        self._count(arguments)
        self._call_with((*arguments, keywords))

    def _instance(self, argument: str) -> None:
        arguments = tuple(self._since_mark())
        self._global(argument)
        self._call_with(arguments)

    def _object(self) -> None:
        kind, *arguments = self._since_mark()
        self.stack.append(kind)
        self._call_with(tuple(arguments))

    def _call_with(self, arguments: tuple[Any, ...]) -> None:
        """Replace the callable on the stack by what it would return."""
        callee = self.stack.pop()
        if not isinstance(callee, Reference):
            self.refuse("wants to call something that it has computed")
        if callee.key in REBUILD_TENSOR:
            self.stack.append(_tensor(*arguments[:4]))
        elif callee.key in REBUILD_PARAMETER:
            if not isinstance(arguments[0], TensorRef):
                raise TypeError("a parameter that is not a tensor")
            self.stack.append(arguments[0])
        elif callee.key == ORDERED_DICT:
            self.stack.append({})
            self._update([value for pair in self._pairs(arguments) for value in pair])
        elif callee.key == ENCODE and len(arguments) == 2 and arguments[1] == "latin1":
            self._count(arguments[0])
            self.stack.append(arguments[0].encode("latin1"))
        elif is_callable_inertly(*callee.key):
            self.stack.append(Placeholder(kind=callee, arguments=arguments))
        else:
            self.refuse(f"wants to call {callee}")

    def _pairs(self, arguments: tuple[Any, ...]) -> list[Any]:
        """(key, value) pairs from which Python 2 built an ordered dict."""
        if not arguments:
            return []
        (pairs,) = arguments
        if not isinstance(pairs, list) or any(len(pair) != 2 for pair in pairs):
            raise TypeError("an ordered dict of something other than pairs")
        self._count(pairs)
        return pairs

    def _count(self, values: Any) -> None:
        self.copied += len(values)
        if self.copied > _MAX_COPIED:
            self.refuse("unfolds into more values than a checkpoint has")

    def _build(self) -> None:
        """State for an object: kept beside a placeholder; an ordered dict's is not needed."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(state, dict) and any(
            isinstance(key, str) and key.startswith("__") for key in state
        ):
            self.refuse("wants to replace the inner workings of an object")
        if isinstance(target, Placeholder):
            target.state = state
        elif not isinstance(target, dict):
            self.refuse("wants to change something that has no state")

    def _persistent(self) -> None:
        """The one kind that torch writes: ("storage", class, key, place, values[, view])."""
        identity = self.stack.pop()
        if not isinstance(identity, tuple) or len(identity) not in (5, 6):
            self.refuse("refers to something outside itself that is not tensor memory")
        tag, kind, key, _, numel = identity[:5]
        is_view = len(identity) == 6 and identity[5] is not None
        is_storage = tag == "storage" and isinstance(kind, Reference) and kind.key in STORAGE_DTYPES
        if not is_storage or is_view or not isinstance(key, str) or not _is_count(numel):
            self.refuse("refers to a kind of tensor memory that is not known")
        storage = StorageRef(key=key, dtype=STORAGE_DTYPES[kind.key], numel=numel)
        if self.storages.setdefault(key, storage) != storage:
            self.refuse(f"describes the same tensor memory, {key[:_MAX_SHOWN]!r}, in two ways")
        self.stack.append(storage)

    def _dict(self) -> None:
        values = self._since_mark()
        self.stack.append({})
        self._update(values)

    def _extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Placeholder):
            target = target.items
        if not isinstance(target, list):
            raise TypeError("items for something that is not a list")
        target.extend(values)

    def _update(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Placeholder):
            target = target.entries
        if not isinstance(target, dict):
            raise TypeError("entries for something that is not a dict")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not _is_plain_key(key):
                self.refuse("uses a key that is neither text nor number nor class")
            target[key] = value


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any) -> TensorRef:
    is_sized = isinstance(shape, tuple) and isinstance(stride, tuple) and len(shape) == len(stride)
    if not isinstance(storage, StorageRef) or not is_sized:
        raise TypeError("a tensor without memory or shape")
    if not all(_is_count(value) for value in (offset, *shape, *stride)):
        raise TypeError("a tensor with an invalid shape")
    return TensorRef(storage=storage, offset=offset, shape=shape, stride=stride)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_plain_key(key: Any) -> bool:
    if isinstance(key, tuple):
        return all(not isinstance(part, tuple) and _is_plain_key(part) for part in key)
    return key is None or isinstance(key, (str, bytes, int, float, Reference, Placeholder))
