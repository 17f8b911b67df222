"""`pass2d doctor`: findings on sound and broken machines; no check ends the others."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import threading
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from cache_samples import write_sample_cache
from typer.testing import CliRunner
from waiting import ends

from pass2d.cli import app
from pass2d.commands.doctor import gpu, libraries, machine, process
from pass2d.commands.doctor.cache_check import cache_findings
from pass2d.commands.doctor.examine import _run, examine
from pass2d.commands.doctor.finding import Finding, guarded, in_time
from pass2d.commands.doctor.process import Answer, ask, run
from pass2d.common.errors import CacheError
from pass2d.common.progress import Silent

TORCH = {
    "version": "2.9",
    "cuda": "12.6",
    "sum": 64**3,
    "tf32_matmul": False,
    "tf32_cudnn": True,
}
GPU = {"device": "cuda:0", "name": "H100", "memory": 80 << 30, "capability": "9.0"}
GPUS = {"devices": [GPU, {**GPU, "device": "cuda:1"}], "architectures": ["sm_90"]}
NO_GPUS = {"devices": [], "architectures": []}
SOUND_GPU = {"sum": 64**3, "free": 79 << 30}
FINE = {"version": "2.3.8", "forward_error": 1e-6, "backward_error": 1e-6}
OTHERS = {"ray": {"version": "2.50"}, "tensorboard": {"version": "2.20"}}
Usage = namedtuple("Usage", "total used free")  # as of shutil


def python(code: str, *, timeout_s: float = 60) -> Answer:
    return run([sys.executable, "-c", code], timeout_s=timeout_s)


def answers(**by_name: Answer | dict):
    """A stand-in for the probes' processes."""

    def ask(name: str, *words: str, timeout_s: float) -> Answer:
        found = by_name["_".join([name, *words]).replace("-", "_").replace(":", "")]
        return found if isinstance(found, Answer) else Answer(values=found)

    return ask


@pytest.mark.slow
def test_real_spconv_agrees_with_a_dense_convolution() -> None:
    answer = ask("spconv", "cpu", timeout_s=300)
    assert answer.values is not None, answer.failure
    assert answer.values["forward_error"] < 1e-5
    assert answer.values["backward_error"] < 1e-5
    (finding,) = libraries.spconv_findings("cpu", answers(spconv_cpu=answer))
    assert finding.state == "ok"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_real_spconv_on_the_gpu() -> None:
    (finding,) = libraries.spconv_findings("cuda:0")
    assert finding.state == "ok", finding


def test_crash_hang_and_error_of_a_probe_are_answers() -> None:
    assert python("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)").failure == (
        "crashed (SIGSEGV)"
    )
    assert python("raise ImportError('no libcuda.so')").failure == "ImportError: no libcuda.so"
    assert python("print('hello')").failure == "gave no answer"
    assert "within 0.5 s" in python("while True: pass", timeout_s=0.5).failure
    assert python("print('{\"a\": 1}')").values == {"a": 1}


def test_children_that_a_probe_leaves_are_killed(tmp_path: Path) -> None:
    code = f"""
import pathlib, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path({str(tmp_path / "pid")!r}).write_text(str(child.pid))
"""
    python(code)
    pid = int((tmp_path / "pid").read_text())
    assert ends(pid), "still running"


def test_interrupt_ends_the_probes_that_run(tmp_path: Path) -> None:
    started = tmp_path / "started"
    os.mkfifo(started)

    def hanging() -> list[Finding]:
        answer = python(f"import time; open({str(started)!r}, 'w').close(); time.sleep(600)")
        return [Finding(name="x", state="broken", found=answer.failure)]

    def pressing() -> list[Finding]:
        started.read_bytes()  # waits for the other one
        os.kill(os.getpid(), signal.SIGINT)
        return []

    with pytest.raises(KeyboardInterrupt):
        list(_run([("hanging", hanging), ("pressing", pressing)], Silent()))
    assert not process._running


def test_check_that_fails_is_a_finding() -> None:
    (finding,) = guarded("odd", lambda: [Finding(name="x", state="ok", found=str(1 // 0))])
    assert finding.state == "broken"
    assert "ZeroDivisionError" in finding.found


def test_segfault_in_spconv_does_not_end_the_other_checks() -> None:
    crashed = Answer(values=None, failure="crashed (SIGSEGV)")
    stub = answers(torch=TORCH, gpus=NO_GPUS, spconv_cpu=crashed, **OTHERS)
    by_name = {finding.name: finding for finding in examine(None, progress=Silent(), ask=stub)}
    assert by_name["spconv on cpu"].state == "broken"
    assert "spconv-cu118" in by_name["spconv on cpu"].remedy
    assert {"Ray", "memory", "disk", "open files", "cores", "/dev/shm"} <= by_name.keys()
    assert all(finding.remedy for finding in by_name.values() if finding.state != "ok")


def test_findings_before_an_interrupt_are_shown() -> None:
    def interrupted(name: str, *words: str, timeout_s: float) -> Answer:
        if name == "ray":
            raise KeyboardInterrupt
        return answers(torch=TORCH, gpus=NO_GPUS, spconv_cpu=FINE, **OTHERS)(
            name, *words, timeout_s=timeout_s
        )

    result = CliRunner().invoke(app, ["doctor"], obj=interrupted)
    assert result.exit_code != 0
    assert "spconv on cpu" in result.stdout
    assert "disk" not in result.stdout


def test_disk_that_does_not_answer_is_a_finding() -> None:
    gone = threading.Event()

    def hanging() -> list[Finding]:
        gone.wait()
        return []

    (finding,) = in_time("disk", hanging, seconds=0.1, remedy="Mount it again.")
    gone.set()
    assert (finding.name, finding.state) == ("disk", "broken")
    assert "no answer within 0.1 s" in finding.found
    (finding,) = in_time("disk", lambda: [finding], seconds=60, remedy="")
    assert finding.remedy == "Mount it again."


def test_without_spconv_a_cpu_lacks_nothing_and_a_gpu_is_slower() -> None:
    (cpu,) = libraries.spconv_findings("cpu", installed=lambda: False)
    (gpu,) = libraries.spconv_findings("cuda:0", installed=lambda: False)
    assert (cpu.state, gpu.state) == ("ok", "warning")
    assert "spconv-cu118" in gpu.remedy


def test_builds_of_spconv_that_crash_or_overwrite_each_other_are_named() -> None:
    (old,) = libraries.spconv_build_findings((("spconv-cu118", "2.3.6"),))
    assert old.state == "broken"
    assert "spconv-cu118 2.3.6" in old.found
    (two,) = libraries.spconv_build_findings((("spconv-cu118", "2.3.8"), ("spconv-cu126", "2.3.8")))
    assert two.state == "warning"
    assert "spconv-cu126" in two.found
    assert libraries.spconv_build_findings((("spconv-cu126", "2.3.8"),)) == []


CU118 = (("spconv-cu118", "2.3.8"),)


@pytest.mark.parametrize(
    ("driver", "cuda", "builds", "state", "said"),
    [
        ("580.65.06", "13.0", CU118, "ok", "torch for CUDA 13.0 needs 580, spconv-cu118 needs 520"),
        ("570.12", "13.0", CU118, "broken", "too old for torch for CUDA 13.0"),
        ("515.65", "11.8", CU118, "broken", "too old for torch for CUDA 11.8 and spconv-cu118"),
        ("535.1", "12.6", (("spconv-cu126", "2.3.8"),), "ok", "spconv-cu126 needs 525"),
        ("535.1", "12.6", (("spconv", "2.3.8"),), "ok", "torch for CUDA 12.6 needs 525"),
    ],
)
def test_driver_and_what_is_asked_of_it(
    driver: str, cuda: str, builds: tuple, state: str, said: str
) -> None:
    (found,) = gpu.driver_findings(driver, cuda, builds)
    assert found.state == state
    assert found.found.startswith(driver)
    assert said in found.found


def test_without_a_driver_nothing_is_said_of_it(tmp_path: Path) -> None:
    assert gpu.driver_findings("", "13.0", CU118) == []
    assert gpu.driver_version(tmp_path / "none") == ""
    text = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n"
    (tmp_path / "version").write_text(text + "GCC version:  gcc version 12.3.0\n")
    assert gpu.driver_version(tmp_path / "version") == "580.65.06"


@pytest.mark.parametrize(
    ("capability", "architectures", "builds", "state", "said"),
    [
        ("9.0", ["sm_80", "sm_90"], CU118, "ok", "sm_90: torch: machine code, spconv-cu118: mach"),
        ("8.6", ["sm_80", "sm_90"], CU118, "ok", "sm_86: torch: machine code"),
        ("12.0", ["sm_120", "compute_120"], CU118, "warning", "spconv-cu118: compiled by the dri"),
        ("10.0", ["sm_90", "compute_90"], (), "warning", "torch: compiled by the driver"),
        ("9.0", ["sm_80"], CU118, "broken", "sm_90: torch: none"),
        ("9.0", ["sm_90"], (("spconv-cu114", "2.3.8"),), "warning", "spconv-cu114: compiled"),
    ],
)
def test_machine_code_of_a_gpu_or_the_drivers_compiler(
    capability: str, architectures: list[str], builds: tuple, state: str, said: str
) -> None:
    (found,) = gpu.code_findings({**GPU, "capability": capability}, architectures, builds)
    assert found.state == state
    assert said in found.found
    assert bool(found.remedy) == (state != "ok")


def test_tf32_and_what_overrides_it() -> None:
    (found,) = gpu.tf32_findings([GPU], TORCH, {})
    assert found.state == "ok"
    assert "matrix products off, cuDNN on" in found.found
    (found,) = gpu.tf32_findings([GPU], TORCH, {"NVIDIA_TF32_OVERRIDE": "0"})
    assert found.state == "warning"
    (found,) = gpu.tf32_findings([{**GPU, "capability": "7.5"}], TORCH, {})
    assert "it needs 8.0" in found.found
    assert gpu.tf32_findings([], TORCH, {}) == []


def test_the_report_names_machine_code_and_tf32_of_each_gpu_and_tests_each() -> None:
    hangs = Answer(values=None, failure="no answer within 180 s")
    stub = answers(
        torch=TORCH,
        gpus=GPUS,
        gpu_cuda0=hangs,
        gpu_cuda1=SOUND_GPU,
        spconv_cpu=FINE,
        spconv_cuda0=hangs,
        spconv_cuda1={**FINE, "backward_error": float("nan")},
        **OTHERS,
    )
    found = {one.name: one for one in examine(None, progress=Silent(), ask=stub)}
    names = [name for name in found if name not in {"driver", "spconv builds"}]
    assert names[2:5] == ["torch", "cuda:0", "cuda:1"]
    assert names[5:8] == ["cuda:0, machine code", "cuda:1, machine code", "TF32"]
    assert names[8:11] == ["spconv on cpu", "spconv on cuda:0", "spconv on cuda:1"]
    assert found["cuda:0"].state == "broken"
    assert "H100, compute capability 9.0, 80.0 GiB: no answer" in found["cuda:0"].found
    assert found["cuda:1"].state == "ok"
    assert "wrong numbers" in found["spconv on cuda:1"].found
    assert "cuda:0" not in found["sparse convolutions"].found
    assert "cuda:1: " in found["sparse convolutions"].found


def test_doctor_says_which_sparse_convolutions_would_be_used() -> None:
    works = [libraries.Finding(name="spconv on cuda:0", state="ok", found="")]
    (said,) = libraries.backend_findings(["cpu", "cuda:0", "cuda:1"], works)
    cpu, first, second = said.found.split("; ")
    assert cpu.startswith("cpu: native")
    assert first.startswith("cuda:0: spconv")
    assert not second.startswith("cuda:1: spconv")


def test_gpu_that_torch_cannot_use_is_broken_and_no_gpu_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    none = Answer(values=NO_GPUS)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    (found,) = gpu.cuda_findings(none, "12.6")
    assert found.state == "broken"
    assert "nvidia-smi" in found.remedy
    (found,) = gpu.cuda_findings(none, None)
    assert "built without CUDA" in found.found
    (found,) = gpu.cuda_findings(Answer(values=None, failure="no answer within 180 s"), "12.6")
    assert "cannot list its GPUs: no answer" in found.found
    monkeypatch.setattr(shutil, "which", lambda name: None)
    if not Path("/dev/nvidia0").exists():
        assert gpu.cuda_findings(none, "12.6")[0].state == "warning"
    assert gpu.cuda_findings(Answer(values=GPUS), "12.6") == []


@pytest.mark.parametrize(
    ("answer", "state", "said"),
    [
        (SOUND_GPU, "ok", "H100, compute capability 9.0, 79.0 GiB of 80.0 GiB free"),
        ({**SOUND_GPU, "free": 1 << 30}, "warning", "1.0 GiB of 80.0 GiB free"),
        ({**SOUND_GPU, "sum": 0.0}, "broken", "a matrix product is wrong"),
    ],
)
def test_product_and_memory_of_a_gpu(answer: dict, state: str, said: str) -> None:
    (found,) = gpu.gpu_findings(GPU, answers(gpu_cuda0=answer))
    assert found.state == state
    assert said in found.found


def test_ray_is_started_only_when_asked() -> None:
    def fail() -> None:
        raise CacheError("Ray does not start (no memory)")

    ask = answers(ray={"version": "2.50"})
    assert libraries.ray_findings(start=False, ask=ask, start_ray=fail)[0].state == "ok"
    (finding,) = libraries.ray_findings(start=True, ask=ask, start_ray=fail)
    assert finding.state == "broken"
    assert "no memory" in finding.found
    assert "--workers 0" in finding.remedy


def test_limits_are_warnings_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 9999))
    (finding,) = machine.open_file_findings()
    assert finding.state == "warning"
    assert "ulimit -n 9999" in finding.remedy
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(64 << 20, 0, 64 << 20))
    assert "--shm-size" in machine.shm_findings()[0].remedy
    assert machine.disk_findings(Path())[0].state == "broken"


def test_disk_is_measured_and_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (finding,) = machine.disk_findings(tmp_path / "not" / "there", test_bytes=8 << 20)
    assert "writes" in finding.found
    assert "reads" in finding.found
    assert str(tmp_path) in finding.found
    assert list(tmp_path.iterdir()) == []

    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    (finding,) = machine.disk_findings(tmp_path)
    assert finding.state == "warning"
    assert "not writable" in finding.found


@pytest.fixture
def cache_root(tmp_path: Path) -> Path:
    write_sample_cache(tmp_path / "cache", n_scans=3, sequences=("00", "08"), n_points=300)
    return tmp_path / "cache"


def states(root: Path, *, full: bool = False) -> dict[str, str]:
    found = cache_findings(str(root), None, full=full, progress=Silent(), seed=0)
    return {finding.name: finding.state for finding in found}


def test_sound_cache(cache_root: Path) -> None:
    assert set(states(cache_root, full=True).values()) == {"ok"}


def test_flipped_byte_is_found_by_the_sample_of_a_small_cache(cache_root: Path) -> None:
    (file,) = cache_root.glob("semkitti/voxel/008000-*/inverse/c/0/0/0")
    data = bytearray(file.read_bytes())
    data[20] ^= 4
    file.write_bytes(data)
    assert states(cache_root)["cache, some chunks"] == "broken"
    assert states(cache_root)["cache, files"] == "ok"


def test_damage_where_no_sample_looks_is_found_by_full(cache_root: Path) -> None:
    (file,) = cache_root.glob("semkitti/rows/voxel/008000-*.json")
    file.write_bytes(file.read_bytes().replace(b"0", b"1", 1))
    quick, full = states(cache_root), states(cache_root, full=True)
    assert "broken" not in quick.values()
    assert full["cache, every byte"] == "broken"


def test_truncated_and_missing_files_are_found_by_size(cache_root: Path) -> None:
    (file,) = cache_root.glob("semkitti/lidar/000000-*/label/c/0/0")
    file.write_bytes(file.read_bytes()[:-1])
    assert states(cache_root)["cache, files"] == "broken"
    file.unlink()
    assert states(cache_root)["cache, files"] == "broken"


def test_command_answers_in_json_and_by_exit_code(cache_root: Path) -> None:
    stub = answers(torch=TORCH, gpus=NO_GPUS, spconv_cpu=FINE, **OTHERS)
    words = ["doctor", "--cache", str(cache_root), "--json"]
    result = CliRunner().invoke(app, words, obj=stub)
    document = json.loads(result.stdout)
    broken = [f["name"] for f in document["findings"] if f["state"] == "broken"]
    assert broken == (["CUDA"] if os.path.exists("/dev/nvidia0") else [])  # noqa: PTH110
    shutil.rmtree(cache_root / "semkitti" / "manifest")
    result = CliRunner().invoke(app, words, obj=stub)
    assert result.exit_code == 1
    assert json.loads(result.stdout)["state"] == "broken"
    result = CliRunner().invoke(app, ["doctor", "--full"])
    assert result.exit_code == 1
    assert "--cache" in result.stderr
