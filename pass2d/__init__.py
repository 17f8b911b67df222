"""LiDAR semantic segmentation: prepare a data set once, then train, evaluate and predict."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pass2d.cache.reader import CacheReader
    from pass2d.common.errors import Pass2DError
    from pass2d.train.evaluation.evaluate import evaluate
    from pass2d.train.inference.segmenter import Segmenter
    from pass2d.train.recipes.recipe import Recipe, load_recipe

__all__ = ["CacheReader", "Pass2DError", "Recipe", "Segmenter", "evaluate", "load_recipe"]

_HOMES = {
    "CacheReader": "pass2d.cache.reader",
    "Pass2DError": "pass2d.common.errors",
    "Recipe": "pass2d.train.recipes.recipe",
    "Segmenter": "pass2d.train.inference.segmenter",
    "evaluate": "pass2d.train.evaluation.evaluate",
    "load_recipe": "pass2d.train.recipes.recipe",
}
"""Public name -> its module, imported at first use: `import pass2d` itself loads nothing heavy."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("pass2d")
        except PackageNotFoundError:
            return "0+checkout"
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, "__version__"])
