"""Packages made missing within a block of this process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

SPCONV = ("spconv", "cumm", "pccm", "ccimport")


class _Refuse:
    def __init__(self, packages: tuple[str, ...]) -> None:
        self._packages = packages

    def find_spec(self, name: str, *_: Any) -> None:
        if name.partition(".")[0] in self._packages:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@contextmanager
def without(packages: tuple[str, ...]) -> Iterator[None]:
    """Within, these packages and all in them cannot be imported, even if they were before."""
    with (
        mock.patch.dict(sys.modules),
        mock.patch.object(sys, "meta_path", [_Refuse(packages), *sys.meta_path]),
    ):
        for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
            del sys.modules[name]
        yield
