"""The plan of the house: no circles, and which package and room may import which."""

from __future__ import annotations

from pathlib import Path

import pytest
from house import Arrows, circles, file_arrows, floors, modules, room_arrows

PACKAGES: dict[str, set[str]] = {
    "common": set(),
    "cache": {"common"},
    "corruptions": {"cache", "common"},
    "points": {"cache", "common"},
    "models": {"common"},
    "pipeline": {"cache", "common", "corruptions", "points"},
    "synth": {"common", "pipeline"},
    "train": {"cache", "common", "corruptions", "models", "points"},
    "reports": {"cache", "common", "corruptions", "train"},
    "commands": {
        *("cache", "common", "corruptions", "pipeline", "points", "reports", "synth", "train"),
    },
    "cli": {"cache", "commands", "common"},
    "__main__": {"cli"},
}
"""Package -> what it may import. `pipeline` and `train` never meet."""

ANY_FILE = "*"
"""The files of a package that no floor names."""

FLOORS: dict[str, tuple[tuple[str, ...], ...]] = {
    "train": (
        ("loop",),
        ("run", "viewing"),
        ("exporting", "prediction", "robustness", "submission"),
        ("evaluation",),
        ("inference",),
        ("checkpoints",),
        ("recipes",),
        ("distributed",),
        ("data", "drawing", "optim"),
        ("stacks",),
    ),
    "models": (
        ("registry",),
        ("sparse_unets", "twodpass", "vavit"),
        ("folding", "network"),
        ("backends",),
        (ANY_FILE,),
    ),
    "pipeline": (
        ("prepare", "repair"),
        ("datasets",),
        ("run",),
        ("compose",),
        ("doubts",),
        ("stages",),
        (ANY_FILE,),
    ),
    "cache": (
        ("clouds", "inspection"),
        ("reader",),
        ("remote",),
        ("care",),
        ("reading", "writing"),
        (ANY_FILE,),
    ),
    "points": (("bags",), (ANY_FILE,)),
    "commands": (("app",), ("doctor",), (ANY_FILE,)),
}
"""Of the packages that have rooms, from the top down: a room imports only what lies below it."""


@pytest.fixture(scope="module")
def arrows() -> Arrows:
    return file_arrows(modules())


def test_no_file_imports_itself_by_way_of_others(arrows: Arrows) -> None:
    assert circles(arrows) == []


def test_no_room_imports_itself_by_way_of_others(arrows: Arrows) -> None:
    assert circles(room_arrows(arrows)) == []


def test_packages_import_only_what_the_plan_allows(arrows: Arrows) -> None:
    for source, targets in arrows.items():
        package = source.partition(".")[0]
        met = {target.partition(".")[0] for target in targets} - {package}
        assert met <= PACKAGES[package], f"{source} imports {sorted(met - PACKAGES[package])}"


def test_rooms_import_only_what_lies_below_them(arrows: Arrows) -> None:
    for source, targets in room_arrows(arrows).items():
        package, _, name = source.partition(".")
        if not name or package not in FLOORS:
            continue
        for target in targets:
            other = target.removeprefix(f"{package}.")
            if target.partition(".")[0] != package or not other or target == package:
                continue
            here, there = _floor(package, name), _floor(package, other)
            both_files = _named(package, name) == _named(package, other) == ANY_FILE
            assert here < there or both_files, f"{source} must not import {target}"


def test_every_room_has_its_floor() -> None:
    folders = {
        tuple(name.split(".")[:2])
        for name, path in modules().items()
        if path.name == "__init__.py" and name.count(".") == 1
    }
    for package, name in folders:
        floors_of = FLOORS.get(package, ())
        assert any(name in floor for floor in floors_of), f"{package}/{name}/ stands on no floor"


def test_circles_and_floors_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b"}, "b": set()}) == []
    assert floors("abc", {"a": {"b", "c"}, "b": {"c"}, "c": set()}) == 3


def test_imports_inside_functions_and_for_types_count(tmp_path: Path) -> None:
    package = tmp_path / "pass2d"
    for name, text in {
        "cache/one.py": "def f():\n    from pass2d.train.two import x\n",
        "train/two.py": "if TYPE_CHECKING:\n    import pass2d.cache.one\n",
    }.items():
        path = package / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    arrows = file_arrows(modules(package))
    assert arrows == {"cache.one": {"train.two"}, "train.two": {"cache.one"}}
    assert circles(arrows) == [["cache.one", "train.two"]]


def _named(package: str, name: str) -> str:
    return name if any(name in floor for floor in FLOORS[package]) else ANY_FILE


def _floor(package: str, name: str) -> int:
    wanted = _named(package, name)
    return next(index for index, floor in enumerate(FLOORS[package]) if wanted in floor)
