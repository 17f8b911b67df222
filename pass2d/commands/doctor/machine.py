"""Findings on Python, cores, memory, /dev/shm, open files and the disk."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

from pass2d.commands.doctor.finding import Finding
from pass2d.common.processes import usable_cores
from pass2d.common.progress import format_bytes

LITTLE_MEMORY = 4 << 30
LITTLE_SHM = 1 << 30
FEW_FILES = 4096
LITTLE_DISK = 5 << 30
SLOW_BYTES_PER_S = 100e6
"""A training sample is about 1 MB: below this, 100 scans/s are out of reach."""
TEST_BYTES = 64 << 20
TEST_S = 5.0
_BLOCK = 4 << 20
_UNLIMITED = 1 << 60


def python_findings() -> list[Finding]:
    """The interpreter."""
    version = platform.python_version()
    found = f"{version} ({sys.executable})"
    if not (3, 11) <= sys.version_info[:2] < (3, 14):
        remedy = "pass2d needs Python 3.11 to 3.13: make setup PYTHON=python3.12"
        return [Finding(name="Python", state="broken", found=found, remedy=remedy)]
    if sys.platform != "linux":
        remedy = "pass2d is tested on Linux only."
        return [
            Finding(name="Python", state="warning", found=f"{found}, {sys.platform}", remedy=remedy)
        ]
    return [Finding(name="Python", state="ok", found=found)]


def core_findings() -> list[Finding]:
    """Processors that this process may use."""
    cores = usable_cores()
    quota = _cpu_quota()
    found = f"{cores} of {os.cpu_count()} usable"
    if quota is not None:
        found += f", limited to {quota:g} by the container"
    if (quota or cores) < 2:
        remedy = "Allow more: with one core, reading data and training take turns."
        return [Finding(name="cores", state="warning", found=found, remedy=remedy)]
    return [Finding(name="cores", state="ok", found=found)]


def memory_findings() -> list[Finding]:
    """Memory that can still be had."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if len(line.split()) > 1}
    total, available = kib["MemTotal"] << 10, kib["MemAvailable"] << 10
    limit, used = _memory_limit()
    found = f"{format_bytes(available)} of {format_bytes(total)} available"
    if limit is not None and limit < total:
        available = min(available, limit - used)
        found += f"; the container may use {format_bytes(limit)}, {format_bytes(used)} are used"
    if available < LITTLE_MEMORY:
        remedy = (
            "Stop other programs, or use prepare --workers 1 and train with a smaller "
            "--set batch_size=N."
        )
        return [Finding(name="memory", state="warning", found=found, remedy=remedy)]
    return [Finding(name="memory", state="ok", found=found)]


def shm_findings(folder: Path = Path("/dev/shm")) -> list[Finding]:
    """Shared memory, where Ray keeps its object store."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError as error:
        remedy = "Ray falls back to /tmp, which is slow: mount a tmpfs there."
        found = f"{folder}: {error.strerror}"
        return [Finding(name="/dev/shm", state="warning", found=found, remedy=remedy)]
    found = f"{format_bytes(usage.free)} of {format_bytes(usage.total)} free"
    if usage.free < LITTLE_SHM:
        remedy = "In a container: docker run --shm-size=4g. Otherwise remove old files there."
        return [Finding(name="/dev/shm", state="warning", found=found, remedy=remedy)]
    return [Finding(name="/dev/shm", state="ok", found=found)]


def open_file_findings() -> list[Finding]:
    """The limit of open files: Ray and a reader of many shards need some thousand."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = _UNLIMITED if soft == resource.RLIM_INFINITY else soft
    found = "no limit" if soft == _UNLIMITED else f"{soft} (may be raised to {hard})"
    if soft < FEW_FILES:
        remedy = f"Run ulimit -n {hard if hard > soft else 65536} before starting pass2d."
        return [Finding(name="open files", state="warning", found=found, remedy=remedy)]
    return [Finding(name="open files", state="ok", found=found)]


def disk_findings(folder: Path, *, test_bytes: int = TEST_BYTES) -> list[Finding]:
    """Free space and speed of the disk below a folder; what is written there is gone after."""
    while not folder.is_dir():
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    found = f"{folder}: {format_bytes(usage.free)} free"
    if usage.free < 2 * test_bytes:
        remedy = "Free some space, or choose another disk."
        return [Finding(name="disk", state="broken", found=f"{found}: full", remedy=remedy)]
    try:
        write, read = _disk_speed(folder, test_bytes)
    except OSError as error:
        remedy = "A cache there can be read, but prepare and train need a writable folder."
        found += f"; not writable ({error.strerror})"
        return [Finding(name="disk", state="warning", found=found, remedy=remedy)]
    found += f", writes {format_bytes(write)}/s, reads {format_bytes(read)}/s"
    if usage.free < LITTLE_DISK:
        remedy = "A prepared SemanticKITTI is about as large as its files: choose a larger disk."
        return [Finding(name="disk", state="warning", found=found, remedy=remedy)]
    if read < SLOW_BYTES_PER_S:
        remedy = "Slow for training: put the cache on a local SSD, or prepare with --profile size."
        return [Finding(name="disk", state="warning", found=found, remedy=remedy)]
    return [Finding(name="disk", state="ok", found=found)]


def _disk_speed(folder: Path, test_bytes: int) -> tuple[float, float]:
    """Bytes per second of writing (with fsync) and reading; stops after ``TEST_S`` each."""
    block = os.urandom(_BLOCK)
    with tempfile.TemporaryFile(dir=folder) as file:  # it has no name: no kill leaves it behind
        fd = file.fileno()
        start = time.perf_counter()
        written = 0
        while written < test_bytes and time.perf_counter() - start < TEST_S:
            written += os.write(fd, block)
            os.fdatasync(fd)
        write = written / (time.perf_counter() - start)
        # Otherwise the memory's speed would be measured.
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        start = time.perf_counter()
        read = 0
        while read < written and time.perf_counter() - start < TEST_S:
            read += len(os.pread(fd, _BLOCK, read))
        return write, read / max(time.perf_counter() - start, 1e-9)


def _cpu_quota() -> float | None:
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return int(quota) / int(period)
    return None


def _memory_limit() -> tuple[int | None, int]:
    """Limit and use of the control group."""
    for folder, limit, used in (
        ("/sys/fs/cgroup", "memory.max", "memory.current"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):
            base = Path(folder)
            return int((base / limit).read_text()), int((base / used).read_text())
    return None, 0
