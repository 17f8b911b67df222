"""Findings on the packages that pass2d requires, and on those of its extras."""

from __future__ import annotations

import importlib.metadata
import importlib.util

from pass2d.commands.doctor.finding import Finding

OPTIONAL = {
    "laspy": ("formats", "read .las and .laz"),
    "plyfile": ("formats", "read .ply"),
    "pypcd4": ("formats", "read .pcd"),
    "s3fs": ("s3", "--cache s3://..."),
    "spconv_triton": ("triton", "sparse convolutions on a GPU without spconv"),
    "rerun": ("view", "pass2d view in Rerun; --png and --html need nothing"),
}
"""Module: extra that installs it, what it is for."""


def package_findings() -> list[Finding]:
    """Whether every package that pass2d requires is there, in a version that it takes."""
    try:
        wanted = importlib.metadata.requires("pass2d") or []
    except importlib.metadata.PackageNotFoundError:
        return [
            Finding(
                name="packages",
                state="warning",
                found="pass2d is not installed, only found on the path",
                remedy="In the checkout: make setup, or pip install -e .",
            )
        ]
    bad = [problem for text in wanted if (problem := _problem(text))]
    if bad:
        return [
            Finding(
                name="packages",
                state="broken",
                found="; ".join(bad),
                remedy="pip install --upgrade pass2d, or make setup in the checkout",
            )
        ]
    plain = [text for text in wanted if "extra ==" not in text]
    return [
        Finding(
            name="packages", state="ok", found=f"all {len(plain)} required packages are installed"
        )
    ]


def _problem(text: str) -> str:
    """What is wrong with one requirement; "" for nothing, and for those of extras."""
    from packaging.requirements import Requirement

    requirement = Requirement(text)
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return ""
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        # Another build of spconv serves as well, and a CPU needs none: it has checks of its own.
        return "" if requirement.name.startswith("spconv-") else f"{requirement.name} is missing"
    if requirement.specifier.contains(version, prereleases=True):
        return ""
    return f"{requirement.name} {version} is installed, {requirement.specifier} is needed"


def optional_findings() -> list[Finding]:
    """Packages of extras, and what each is for."""
    missing: dict[str, list[str]] = {}
    there = []
    for module, (extra, purpose) in OPTIONAL.items():
        if importlib.util.find_spec(module) is None:
            missing.setdefault(extra, []).append(f"{module} ({purpose})")
        else:
            there.append(module)
    found = f"installed: {', '.join(there) or 'none'}"
    lacking = "; ".join(", ".join(names) for names in missing.values())
    return [
        Finding(
            name="optional packages",
            state="ok",
            found=found + (f"; not installed: {lacking}" if lacking else ""),
            remedy=f"To add them: pip install 'pass2d[{','.join(missing)}]'" if missing else "",
        )
    ]
