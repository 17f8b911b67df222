"""What documents and docstrings cite is there: links, paths, sections of the page on the maths."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    path
    for pattern in ("*.md", "[a-z]*/**/*.md")
    for path in sorted(PROJECT.glob(pattern))
    if not path.is_relative_to(PROJECT / "tests" / "data")
]
SOURCES = [
    path for pattern in ("[a-z]*/**/*.py", "[a-z]*/**/*.toml") for path in PROJECT.glob(pattern)
]
PLACES_OF_USERS = (
    *("cache/semkitti", "cache/nuscenes", "dataset/", "demo/", "image_2/", "labels/", "lidarseg/"),
    *("runs/", "samples/", "sequences/", "sweeps/", "tensorboard/", "datasets/NAME."),
)
"""Paths that commands write or read, not files of the repository."""

_LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")
_PATH = re.compile(r"`((?:[\w.-]+/)+(?:[\w-]+\.(?:py|md|toml|js|css|png|sh))?|[\w-]+\.md)`")
_SECTION = re.compile(
    r"docs/maths\.md, (?:sections? )?(\d+(?:\.\d+)?(?:(?:, | and | to )\d+(?:\.\d+)?)*)"
)


def _exists(word: str, document: Path) -> bool:
    """Below the document's folder, the repository or the package."""
    return any((top / word).exists() for top in (document.parent, PROJECT, PROJECT / "pass2d"))


def test_links_of_documents_lead_somewhere() -> None:
    broken = []
    for document in DOCUMENTS:
        for target, anchor in _LINK.findall(document.read_text("utf-8")):
            if "://" in target:
                continue
            place = document.parent / target
            if not place.exists():
                broken.append(f"{document.relative_to(PROJECT)}: {target}")
            elif anchor and anchor[1:] not in _anchors(place):
                broken.append(f"{document.relative_to(PROJECT)}: {target}{anchor}")
    assert broken == []


def test_make_quick_names_test_files() -> None:
    listed = re.search(
        r"^QUICK := ((?:.*\\\n)*.*)", (PROJECT / "Makefile").read_text(), re.MULTILINE
    )
    assert listed is not None
    names = listed[1].replace("\\\n", " ").split()
    assert [n for n in names if not (PROJECT / "tests" / f"test_{n}.py").is_file()] == []
    assert {n.partition("_")[0] for n in names} >= {"cache", "cli", "models", "pipeline", "train"}


def _anchors(document: Path) -> set[str]:
    """Names of headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text("utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_paths_in_documents_are_there() -> None:
    missing = [
        f"{document.relative_to(PROJECT)}: {word}"
        for document in DOCUMENTS
        if document.name != "CHANGELOG.md"
        for word in _PATH.findall(document.read_text("utf-8"))
        if not word.startswith(PLACES_OF_USERS) and not _exists(word, document)
    ]
    assert missing == []


def cited() -> Iterator[tuple[Path, str]]:
    """Each section of the page on the maths that code cites."""
    for path in SOURCES:
        text = re.sub(r"\n\s*#? *", " ", path.read_text("utf-8"))
        for numbers in _SECTION.findall(text):
            for number in re.findall(r"\d+(?:\.\d+)?", numbers):
                yield path, number


def test_cited_sections_are_there() -> None:
    text = (PROJECT / "docs" / "maths.md").read_text("utf-8")
    chapters = dict(
        re.findall(r"^## (\d+)\. (.+?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL)
    )
    found = list(cited())
    assert len(found) > 30
    for path, number in found:
        chapter, _, step = number.partition(".")
        assert chapter in chapters, f"{path}: docs/maths.md, section {number}"
        is_there = not step or re.search(rf"^{step}\. ", chapters[chapter], flags=re.MULTILINE)
        assert is_there, f"{path}: docs/maths.md, section {number}"


def test_pages_that_code_names_are_there() -> None:
    citing = [path for path in SOURCES if re.search(r"docs/\w+\.md", path.read_text("utf-8"))]
    for path in citing:
        for word in re.findall(r"docs/\w+\.md", path.read_text("utf-8")):
            assert (PROJECT / word).is_file(), f"{path}: {word}"
