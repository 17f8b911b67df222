"""Findings on a cache: a quick look, or every byte."""

from __future__ import annotations

import random
from pathlib import Path

from pass2d.cache.care.status import status
from pass2d.cache.care.verify import verify
from pass2d.cache.fields import FIELDS
from pass2d.cache.layout import Layout
from pass2d.cache.manifest import load_manifest
from pass2d.cache.reader import CacheReader
from pass2d.cache.remote.staged import staged
from pass2d.commands.doctor.finding import Finding
from pass2d.common.errors import CacheError
from pass2d.common.progress import Progress, format_bytes

SAMPLED_SCANS = 16
SAMPLED_REMOTE_SCANS = 1
"""Of a remote cache each chunk is a request."""


def cache_findings(
    location: str, dataset: str | None, *, full: bool, progress: Progress, seed: int | None = None
) -> list[Finding]:
    """Check a cache.

    Args:
        location: folder or URL.
        dataset: which data set, if there are several.
        full: read every byte (`pass2d cache verify`).
        progress: of the full check.
        seed: which scans are sampled; others each time without.
    """
    try:
        with CacheReader.open(location, dataset=dataset) as reader:
            findings = [_opened(reader, location), _sampled(reader, seed)]
            if not reader.is_remote:
                findings += _files(reader)
            if full:
                findings.append(_verified(reader, location, dataset, progress))
    except CacheError as error:
        remedy = "See the message."
        return [Finding(name="cache", state="broken", found=str(error), remedy=remedy)]
    return findings


def _opened(reader: CacheReader, location: str) -> Finding:
    found = (
        f"{reader.info.name} at {location}: generation {reader.generation}, "
        f"{len(reader.scans)} scans"
    )
    if not len(reader.scans):
        remedy = "Prepare one: `pass2d prepare semkitti --root ... --cache ...`."
        return Finding(name="cache", state="warning", found=f"{found}: empty", remedy=remedy)
    return Finding(name="cache", state="ok", found=found)


def _sampled(reader: CacheReader, seed: int | None) -> Finding:
    """Every chunk of some scans drawn by chance."""
    count = min(SAMPLED_REMOTE_SCANS if reader.is_remote else SAMPLED_SCANS, len(reader.scans))
    problems: list[str] = []
    chunks = 0
    for position in random.Random(seed).sample(range(len(reader.scans)), count):
        for field in FIELDS:
            for chunk in reader.stored_chunks(position, field):
                chunks += 1
                try:
                    reader.check_chunk(position, chunk)
                except CacheError as error:
                    problems.append(str(error))
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return Finding(
            name="cache, some chunks",
            state="broken",
            found=problems[0] + more,
            remedy="Run `pass2d cache repair`: it rebuilds what is damaged from the raw data.",
        )
    found = f"{chunks} chunks of {count} randomly chosen scans: all checksums match"
    return Finding(name="cache, some chunks", state="ok", found=found)


def _files(reader: CacheReader) -> list[Finding]:
    """The manifest's files and sizes against the disk, and the sources against the manifest."""
    shards = load_manifest(Layout(root=reader.root), reader.generation).tables.shards
    columns = [shards[name].to_pylist() for name in ("path", "file_name", "file_bytes")]
    wrong: list[str] = []
    files = total = 0
    for folder, names, sizes in zip(*columns, strict=True):
        for name, nbytes in zip(names, sizes, strict=True):
            files, total = files + 1, total + nbytes
            try:
                found = (reader.root / folder / name).stat().st_size
            except OSError as error:
                wrong.append(f"{folder}/{name}: {(error.strerror or 'missing').lower()}")
                continue
            if found != nbytes:
                wrong.append(f"{folder}/{name}: {found} bytes, expected {nbytes}")
    return [_size_finding(wrong, files, total), *_source_findings(reader.root)]


def _size_finding(wrong: list[str], files: int, total: int) -> Finding:
    name = "cache, files"
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        remedy = "Run `pass2d cache repair`: it rebuilds what is damaged from the raw data."
        return Finding(name=name, state="broken", found=wrong[0] + more, remedy=remedy)
    found = f"{files:,} files, {format_bytes(total)}: all present, with the right sizes"
    return Finding(name=name, state="ok", found=found)


def _source_findings(root: Path) -> list[Finding]:
    report = status(root)
    name = "cache, raw data"
    if report.changed:
        found = (
            f"{len(report.changed)} of {report.sources} raw files changed, e.g. {report.changed[0]}"
        )
        remedy = "Run `pass2d prepare` again: it rebuilds only what depends on them."
        return [Finding(name=name, state="warning", found=found, remedy=remedy)]
    findings = []
    if report.vanished:
        found = f"{len(report.vanished)} of {report.sources} raw files are missing"
        remedy = "Not needed for training, only for `pass2d cache repair`."
        findings.append(Finding(name=name, state="ok", found=found, remedy=remedy))
    if report.failed:
        found = f"{report.failed} scans could not be prepared"
        remedy = "`pass2d prepare ... --check` names their files."
        findings.append(Finding(name=name, state="warning", found=found, remedy=remedy))
    if report.unfinished:
        found = f"{report.unfinished} finished shards that belong to no generation"
        remedy = "Run `pass2d prepare` again to finish an interrupted run, or `pass2d cache gc`."
        findings.append(Finding(name=name, state="warning", found=found, remedy=remedy))
    if not findings:
        found = f"{report.sources} raw files, sizes unchanged"
        findings.append(Finding(name=name, state="ok", found=found))
    return findings


def _verified(
    reader: CacheReader, location: str, dataset: str | None, progress: Progress
) -> Finding:
    if reader.is_remote:
        with staged(location, dataset) as remote:
            report = verify(remote.layout.root, progress, presence=remote.present)
    else:
        report = verify(reader.root, progress)
    name = "cache, every byte"
    if report.damages:
        more = f" (and {len(report.damages) - 1} more)" if len(report.damages) > 1 else ""
        remedy = "Run `pass2d cache repair`: it rebuilds what is damaged from the raw data."
        return Finding(name=name, state="broken", found=f"{report.damages[0]}{more}", remedy=remedy)
    found = f"{report.files:,} files, {format_bytes(report.nbytes)} read: no damage"
    return Finding(name=name, state="ok", found=found)
