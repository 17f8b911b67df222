"""Rules of the whole tree that no type checker holds."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from house import modules

from pass2d.pipeline.datasets.registry import DATASETS
from pass2d.pipeline.stages.scan_formats import SCAN_FORMATS

LAYOUTS = {dataset.layout.name for dataset in DATASETS.values()}


def test_no_code_compares_the_name_of_a_data_set_or_layout() -> None:
    names = LAYOUTS | set(DATASETS)
    found = [
        f"{path}:{line}"
        for path in modules().values()
        for line, texts in _comparisons(ast.parse(path.read_text(encoding="utf-8")))
        if names & texts
    ]
    assert found == [], "ask the facts of the data set, or a registry"


def test_comparisons_with_names_are_found() -> None:
    source = 'a == "x"\n"y" != b\nc in ("x", "z")\nmatch d:\n    case "y":\n        pass\nf("x")\n'
    found = [(line, sorted(texts)) for line, texts in _comparisons(ast.parse(source))]
    assert found == [(1, ["x"]), (2, ["y"]), (3, ["x", "z"]), (5, ["y"])]


def test_file_formats_are_those_of_layouts() -> None:
    assert set(SCAN_FORMATS) <= LAYOUTS


def _comparisons(tree: ast.AST) -> Iterator[tuple[int, set[str]]]:
    """Line and texts of each comparison with literal texts."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Compare, ast.MatchValue)):
            texts = {
                part.value
                for part in ast.walk(node)
                if isinstance(part, ast.Constant) and isinstance(part.value, str)
            }
            if texts:
                yield node.lineno, texts
