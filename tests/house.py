"""Reads who imports whom, `TYPE_CHECKING` and imports inside functions included.

`python tests/house.py` prints rooms, arrows and floors per package.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "pass2d"

Arrows = dict[str, set[str]]
"""Who -> whom it imports."""


def modules(package: Path = PACKAGE) -> dict[str, Path]:
    """Every module of the import package by its dotted name, without "pass2d."."""
    found = {}
    for folder in sorted(path for path in package.iterdir() if path.is_dir()):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(package).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found | {path.stem: path for path in package.glob("*.py") if path.stem != "__init__"}


def file_arrows(files: Mapping[str, Path]) -> Arrows:
    """Which module imports which."""
    return {
        name: {_longest(word, files) for word in _imported(path)} - {None, name}
        for name, path in files.items()
    }


def _longest(word: str, files: Mapping[str, Path]) -> str | None:
    """`common.errors.CacheError` is a name in `common.errors`."""
    while word:
        if word in files:
            return word
        word = word.rpartition(".")[0]
    return None


def _imported(path: Path) -> set[str]:
    words = set()
    for node in _statements(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            words |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            words |= {alias.name for alias in node.names}
    return {word.removeprefix("pass2d.") for word in words if word.startswith("pass2d.")}


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """All below a node, without their expressions: those import nothing."""
    for part in ("body", "orelse", "finalbody", "handlers", "cases"):
        for statement in getattr(node, part, ()):
            yield statement
            yield from _statements(statement)


def room(module: str) -> str:
    """A folder below a package, or a file that lies in the package itself."""
    return ".".join(module.split(".")[:2])


def room_arrows(arrows: Arrows) -> Arrows:
    """The arrows between rooms."""
    found: Arrows = defaultdict(set)
    for source, targets in arrows.items():
        found[room(source)] |= {room(target) for target in targets} - {room(source)}
    return dict(found)


def circles(arrows: Arrows) -> list[list[str]]:
    """What imports itself by way of others: groups of two and more."""
    below = {source: _reached(source, arrows) for source in arrows}
    found = {
        tuple(
            sorted({source, *(other for other in below[source] if source in below.get(other, ()))})
        )
        for source in arrows
        if source in below[source]
    }
    return [list(group) for group in sorted(found)]


def _reached(start: str, arrows: Arrows) -> set[str]:
    seen: set[str] = set()
    waiting = list(arrows.get(start, ()))
    while waiting:
        if (name := waiting.pop()) not in seen:
            seen.add(name)
            waiting += arrows.get(name, ())
    return seen


def floors(names: Iterable[str], arrows: Arrows) -> int:
    """How many rooms stand on top of each other along the longest way down; no circles."""
    wanted = set(names)
    height: dict[str, int] = {}

    def floor(name: str) -> int:
        if name not in height:
            below = [floor(other) for other in arrows.get(name, ()) if other in wanted]
            height[name] = 1 + max(below, default=0)
        return height[name]

    return max((floor(name) for name in wanted), default=0)


def summary() -> str:
    """A line per package: rooms, arrows between them, floors."""
    arrows = room_arrows(file_arrows(modules()))
    lines = [f"{'package':<12} {'rooms':>5} {'arrows':>6} {'floors':>6}"]
    for package in sorted({name.partition(".")[0] for name in arrows}):
        names = [n for n in arrows if n.partition(".")[0] == package and n != package]
        count = sum(target in names for name in names for target in arrows[name])
        height = floors(names, arrows) if not circles({n: arrows[n] for n in names}) else "-"
        lines.append(f"{package:<12} {len(names):>5} {count:>6} {height:>6}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(summary() + "\n")
