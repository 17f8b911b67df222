"""LiDAR semantic segmentation: prepare a data set once, then train, evaluate and predict.

The public names below are imported when they are first used: `import pass2d` loads nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pass2d.cache.fields import Fields
    from pass2d.cache.reader import CacheReader
    from pass2d.common.errors import Pass2DError
    from pass2d.pipeline.datasets.nuscenes import list_nuscenes
    from pass2d.pipeline.datasets.semkitti import list_semkitti
    from pass2d.pipeline.prepare import PrepareConfig, prepare
    from pass2d.train.evaluation.evaluate import evaluate
    from pass2d.train.inference.segmenter import Segmenter
    from pass2d.train.inference.sequence import SequenceSegmenter
    from pass2d.train.loop import run as fit
    from pass2d.train.prediction.bag import predict_bag
    from pass2d.train.prediction.predict import predict
    from pass2d.train.recipes.recipe import Recipe, load_recipe

    __version__: str

__all__ = [
    "CacheReader",
    "Fields",
    "Pass2DError",
    "PrepareConfig",
    "Recipe",
    "Segmenter",
    "SequenceSegmenter",
    "evaluate",
    "fit",
    "list_nuscenes",
    "list_semkitti",
    "load_recipe",
    "predict",
    "predict_bag",
    "prepare",
]

_HOMES = {
    "CacheReader": "cache.reader",
    "Fields": "cache.fields",
    "Pass2DError": "common.errors",
    "PrepareConfig": "pipeline.prepare",
    "Recipe": "train.recipes.recipe",
    "Segmenter": "train.inference.segmenter",
    "SequenceSegmenter": "train.inference.sequence",
    "evaluate": "train.evaluation.evaluate",
    "fit": "train.loop:run",  # not `train`: importing the package pass2d.train takes that name
    "list_nuscenes": "pipeline.datasets.nuscenes",
    "list_semkitti": "pipeline.datasets.semkitti",
    "load_recipe": "train.recipes.recipe",
    "predict": "train.prediction.predict",
    "predict_bag": "train.prediction.bag",
    "prepare": "pipeline.prepare",
}
"""Public name -> the module that defines it, with ":NAME" where it has another name there."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("pass2d")
        except PackageNotFoundError:
            return "0+checkout"
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, other = _HOMES[name].partition(":")
    return getattr(import_module(f"pass2d.{module}"), other or name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
