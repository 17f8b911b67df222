"""What pyproject.toml asks for is imported somewhere, and what is imported is asked for."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
TABLE = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["project"]

MODULES = {
    "mosaicml-streaming": "streaming",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "rerun-sdk": "rerun",
    "spconv-cu118": "spconv",
}
"""Of packages whose module has another name."""

NOT_IMPORTED = {
    "mypy": "a program",
    "onnxscript": "torch's exporter imports it",
    "pre-commit": "a program",
    "pytest-xdist": "a plugin of pytest",
    "ruff": "a program",
    "s3fs": "fsspec loads it by the protocol",
}

ELSEWHERE = {
    "cumm": "of spconv",
    "nuscenes": "the official devkit: its test skips without, and needs versions of its own",
    "pyquaternion": "of the devkit",
}


def modules_of(requirements: list[str]) -> set[str]:
    found = set()
    for text in requirements:
        name = re.split(r"[\[<>=; ]", text, maxsplit=1)[0].lower()
        if name != "pass2d" and name not in NOT_IMPORTED:
            found.add(MODULES.get(name, name.replace("-", "_")))
    return found


def imported(*folders: str) -> set[str]:
    """Modules of other projects that the files below some folders import, wherever they do."""
    own = {path.stem for path in [*PROJECT.glob("tests/*.py"), *PROJECT.glob("bench/**/*.py")]}
    found = {name.partition(".")[0] for folder in folders for name in _imported(folder)}
    return found - own - {"pass2d", "bench"} - sys.stdlib_module_names


def _imported(folder: str) -> Iterator[str]:
    for path in (PROJECT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node.module
            elif isinstance(node, ast.Call) and node.args:  # import_module, importorskip, find_spec
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                first = node.args[0]
                is_text = isinstance(first, ast.Constant) and isinstance(first.value, str)
                if name in ("import_module", "importorskip", "find_spec") and is_text:
                    yield first.value  # type: ignore[attr-defined]


PACKAGE = ("pass2d", "cache", "pipeline", "pass2d_models", "train")
REQUIRED = modules_of(TABLE["dependencies"])
EXTRAS = {name: modules_of(found) for name, found in TABLE["optional-dependencies"].items()}


def test_what_the_package_imports_is_required_or_an_extra() -> None:
    of_users = REQUIRED.union(*(found for name, found in EXTRAS.items() if name != "dev"))
    assert imported(*PACKAGE) - of_users - set(ELSEWHERE) == set()


def test_what_is_required_is_imported_by_the_package() -> None:
    by_torch = {"tensorboard"}  # torch.utils.tensorboard imports it
    by_users = {"zarr"}  # docs/format.md opens shards with it
    assert REQUIRED - imported(*PACKAGE) - by_torch - by_users == set()


def test_what_tests_and_benchmarks_import_is_asked_for() -> None:
    asked = REQUIRED.union(*EXTRAS.values())
    assert imported("tests", "bench") - asked - set(ELSEWHERE) == set()


def test_extras_are_imported() -> None:
    everywhere = imported(*PACKAGE, "tests", "bench")
    assert set().union(*EXTRAS.values()) - everywhere == set()
