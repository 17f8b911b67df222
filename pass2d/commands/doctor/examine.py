"""All checks in turn: the ones that crash in processes of their own, two at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from pass2d.cache.urls import is_url
from pass2d.commands.doctor.finding import Check, Finding, guarded, in_time
from pass2d.commands.doctor.gpu import (
    code_findings,
    cuda_findings,
    driver_findings,
    driver_version,
    gpu_findings,
    tf32_findings,
)
from pass2d.commands.doctor.libraries import (
    backend_findings,
    has_scatter,
    is_sound,
    no_scatter_findings,
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
from pass2d.commands.doctor.process import PROBE_S, Answer, Ask, end_all
from pass2d.commands.doctor.process import ask as ask_process
from pass2d.common.progress import Progress
from pass2d.common.spconv_builds import spconv_builds

T = TypeVar("T")
DISK_S = 120.0
"""Twice 5 s are for its test."""
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
) -> Iterator[Finding]:
    """Look at the machine, the libraries and, if one is named, a cache.

    A check that fails, hangs or crashes is a finding, and takes none of the others away.

    Args:
        location: of a cache, folder or URL; None: no cache is checked, and the disk of the current
            folder is measured.
        dataset: of the cache.
        full: read every byte of the cache.
        start_ray: also start Ray.
        progress: receives finished checks.
        ask: runs a probe.

    Yields:
        In the order of a report, each as soon as it and those before it are known.
    """
    folder = _disk_of(location)
    progress.start("checks", total=0, unit="checks")
    first: list[tuple[str, Check]] = [("Python", python_findings), ("packages", package_findings)]
    yield from _run(first, progress)
    torch, gpus = _results([partial(ask, name, timeout_s=PROBE_S) for name in ("torch", "gpus")])
    found: list[Finding] = []
    for finding in _run(_library_checks(torch, gpus, ask), progress):
        found.append(finding)
        yield finding
    others: list[tuple[str, Check]] = [
        ("TensorBoard", partial(tensorboard_findings, ask)),
        ("Ray", partial(ray_findings, start=start_ray, ask=ask)),
        ("optional packages", optional_findings),
        ("cores", core_findings),
        ("memory", memory_findings),
        ("/dev/shm", shm_findings),
        ("open files", open_file_findings),
        ("sparse convolutions", partial(backend_findings, _devices(torch, gpus), found)),
    ]
    yield from _run(others, progress)
    disk = in_time(
        "disk",
        partial(disk_findings, folder),
        seconds=DISK_S,
        remedy=f"Is {folder} a network "
        "disk that is gone (see df)? Mount it again, or choose another folder.",
    )
    yield from disk
    progress.advance()
    if location is None or any(finding.state == "broken" for finding in disk):
        return
    from pass2d.commands.doctor.cache_check import cache_findings

    check = partial(cache_findings, location, dataset, full=full, progress=progress)
    yield from guarded("cache", check)


def _devices(torch: Answer, gpus: Answer) -> list[str]:
    """Those to be tested: the CPU, and all GPUs that torch sees."""
    if not is_sound(torch):
        return []
    return ["cpu", *(gpu["device"] for gpu in (gpus.values or {}).get("devices", ()))]


def _library_checks(torch: Answer, gpus: Answer, ask: Ask) -> Iterator[tuple[str, Check]]:
    """Of torch, GPUs, spconv and torch-scatter, in the order of a report.

    Args:
        torch: The answer of the probe `torch`.
        gpus: The answer of the probe `gpus`.
        ask: Runs a probe.
    """
    devices, builds = _devices(torch, gpus), spconv_builds()
    cuda = (torch.values or {}).get("cuda")
    yield "torch", partial(torch_findings, torch)
    if devices:
        yield "CUDA", partial(cuda_findings, gpus, cuda)
    listed = gpus.values or {"devices": (), "architectures": ()}
    for gpu in listed["devices"]:
        yield gpu["device"], partial(gpu_findings, gpu, ask)
    yield "driver", partial(driver_findings, driver_version(), cuda, builds)
    for gpu in listed["devices"]:
        check = partial(code_findings, gpu, listed["architectures"], builds)
        yield f"{gpu['device']}, machine code", check
    yield "TF32", partial(tf32_findings, listed["devices"], torch.values or {})
    yield "spconv builds", partial(spconv_build_findings, builds)
    for device in devices:
        yield f"spconv on {device}", partial(spconv_findings, device, ask)
    if not devices:
        yield "spconv", lambda: [NO_SPCONV]
    if not has_scatter():
        yield "torch-scatter", no_scatter_findings
        return
    for device in devices:
        yield f"torch-scatter on {device}", partial(scatter_findings, device, ask)


def _disk_of(location: str | None) -> Path:
    """The folder whose disk matters: of the cache, or of what is kept of a remote one."""
    if location is None:
        return Path.cwd()
    from pass2d.cache.remote.config import RemoteConfig

    return RemoteConfig.from_environment().folder if is_url(location) else Path(location)


def _run(checks: Iterable[tuple[str, Check]], progress: Progress) -> Iterator[Finding]:
    """What checks find, in their order."""
    for found in _results([partial(guarded, name, check) for name, check in checks]):
        yield from found
        progress.advance()


def _results(jobs: Sequence[Callable[[], T]]) -> Iterator[T]:
    """What jobs return, in their order; some run at once."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = [pool.submit(job) for job in jobs]
        try:
            for future in futures:
                yield future.result()
        except BaseException:  # Ctrl-C, or nobody wants to hear more
            pool.shutdown(wait=False, cancel_futures=True)
            end_all()
            raise
