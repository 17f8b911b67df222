"""All checks in turn: the ones that crash in processes of their own, two at a time."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from pass2d.cache.urls import is_url
from pass2d.commands.doctor.finding import Check, Finding, guarded
from pass2d.commands.doctor.libraries import (
    Ask,
    backend_findings,
    ray_findings,
    scatter_findings,
    spconv_build_findings,
    spconv_findings,
    tensorboard_findings,
    torch_findings,
)
from pass2d.commands.doctor.machine import (
    core_findings,
    disk_findings,
    memory_findings,
    open_file_findings,
    python_findings,
    shm_findings,
)
from pass2d.commands.doctor.packages import optional_findings, package_findings
from pass2d.commands.doctor.process import ask as ask_process
from pass2d.commands.doctor.process import end_all
from pass2d.common.progress import Progress

AT_ONCE = 2
NO_SPCONV = Finding(
    name="spconv",
    state="broken",
    found="not tested: it needs torch",
    remedy="Fix torch first, then run `pass2d doctor` again.",
)


def examine(
    location: str | None,
    *,
    dataset: str | None = None,
    full: bool = False,
    start_ray: bool = False,
    progress: Progress,
    ask: Ask = ask_process,
) -> list[Finding]:
    """Look at the machine, the libraries and, if one is named, a cache.

    Args:
        location: of a cache, folder or URL; None: no cache is checked, and the disk of the current
            folder is measured.
        dataset: of the cache.
        full: read every byte of the cache.
        start_ray: also start Ray.
        progress: hears of checks done.
        ask: runs a probe.

    Returns:
        In the order of a report.
    """
    folder = _disk_of(location)
    devices: list[str] = []

    def torch_check() -> Sequence[Finding]:
        findings, found = torch_findings(ask)
        devices.extend(found)
        return findings

    before: list[tuple[str, Check]] = [
        ("Python", python_findings),
        ("packages", package_findings),
        ("torch", torch_check),
    ]
    after: list[tuple[str, Check]] = [
        ("TensorBoard", partial(tensorboard_findings, ask)),
        ("Ray", partial(ray_findings, start=start_ray, ask=ask)),
        ("optional packages", optional_findings),
        ("cores", core_findings),
        ("memory", memory_findings),
        ("/dev/shm", shm_findings),
        ("open files", open_file_findings),
    ]
    alone: list[tuple[str, Check]] = [("disk", partial(disk_findings, folder))]
    if location is not None:
        from pass2d.commands.doctor.cache_check import cache_findings

        check = partial(cache_findings, location, dataset, full=full, progress=progress)
        alone.append(("cache", check))
    progress.start("checks", total=len(before) + len(after) + len(alone) + 2, unit="checks")
    found = _run(before, progress)
    middle: list[tuple[str, Check]] = [
        (f"spconv on {device}", partial(spconv_findings, device, ask)) for device in devices
    ]
    middle.append(("torch-scatter", partial(scatter_findings, devices, ask)))
    found += [] if devices else [NO_SPCONV]
    found += spconv_build_findings()
    found += _run([*middle, *after], progress)
    found += backend_findings(devices, found)
    return found + _run_alone(alone, progress)


def _disk_of(location: str | None) -> Path:
    """The folder whose disk matters: of the cache, or of what is kept of a remote one."""
    if location is None:
        return Path.cwd()
    from pass2d.cache.remote.config import RemoteConfig

    return RemoteConfig.from_environment().folder if is_url(location) else Path(location)


def _run(checks: Sequence[tuple[str, Check]], progress: Progress) -> list[Finding]:
    results = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = [pool.submit(guarded, name, check) for name, check in checks]
        try:
            for future in futures:
                results.append(future.result())
                progress.advance()
        except BaseException:  # Ctrl-C
            pool.shutdown(wait=False, cancel_futures=True)
            end_all()
            raise
    return [finding for findings in results for finding in findings]


def _run_alone(checks: Sequence[tuple[str, Check]], progress: Progress) -> list[Finding]:
    """One after the other: speed is measured, or progress of its own is shown."""
    results: list[Finding] = []
    for name, check in checks:
        results += guarded(name, check)
        progress.advance()
    return results
