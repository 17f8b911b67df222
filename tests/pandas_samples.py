"""Pickled tables as versions of pandas write them, without pandas: things that pickle the same."""

from __future__ import annotations

import gzip
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

LAYOUTS = ("0.25", "1.1", "2.2")


class Called:
    """Pickles as the result of a call, with a state."""

    def __init__(self, module: str, name: str, *arguments: Any, state: Any = None) -> None:
        self.callee = Named(module, name)
        self.arguments, self.state = arguments, state

    def __reduce__(self) -> tuple[Any, ...]:
        if self.state is None:
            return self.callee, self.arguments
        return self.callee, self.arguments, self.state


class Named:
    """Pickles as a name."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __call__(self, *_: Any) -> None:
        """The pickler asks whether it can be called."""


class Writer(pickle._Pickler):  # type: ignore[name-defined]  # the one in Python can be changed
    """Writes names as they are, whether there is such a module or not."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_named(self, obj: Named) -> None:
        self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        self.memoize(obj)

    dispatch[Named] = save_named


def table(columns: Mapping[str, np.ndarray], layout: str) -> Called:
    """A DataFrame, one block per type, of a version's layout."""
    names = list(columns)
    index = "pandas.core.indexes.base"
    axes = [
        Called(
            index,
            "_new_Index",
            Named(index, "Index"),
            {"data": np.array(names, object), "name": None},
        ),
        Called(
            index,
            "_new_Index",
            Named("pandas.core.indexes.range", "RangeIndex"),
            {"name": None, "start": 0, "stop": len(columns[names[0]]), "step": 1},
        ),
    ]
    blocks = []
    for dtype in dict.fromkeys(one.dtype for one in columns.values()):
        places = [place for place, name in enumerate(names) if columns[name].dtype == dtype]
        values = np.stack([columns[names[place]] for place in places])
        is_run = places == list(range(places[0], places[-1] + 1))
        where = slice(places[0], places[-1] + 1, 1) if is_run else np.array(places)
        blocks.append((values, where))
    managers = "pandas.core.internals.managers"
    if layout == "2.2":
        made = [
            Called("pandas._libs.internals", "_unpickle_block", values, where, 2)
            for values, where in blocks
        ]
        manager = Called(managers, "BlockManager", tuple(made), axes)
    else:
        kept = [{"values": values, "mgr_locs": where} for values, where in blocks]
        state = (axes, [b["values"] for b in kept], [], {"0.14.1": {"axes": axes, "blocks": kept}})
        manager = Called(managers, "BlockManager", state=state)
    key = "_data" if layout == "0.25" else "_mgr"
    state = {key: manager, "_typ": "dataframe", "_metadata": []}
    return Called("pandas.core.frame", "DataFrame", state=state)


def write_table(path: Path, columns: Mapping[str, np.ndarray], layout: str = "0.25") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    Writer(file, protocol=4 if layout != "0.25" else 3).dump(table(columns, layout))
    data = file.getvalue()
    path.write_bytes(gzip.compress(data, 1) if path.suffix == ".gz" else data)
    return path
