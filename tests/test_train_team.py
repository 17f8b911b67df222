"""Several processes on one machine train what one process trains."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cache_samples import write_sample_cache
from train_samples import Heard, final_weights, tiny_recipe

from cache.errors import ConfigError
from train.loop import run
from train.team import choose_device

SCRIPT = """
import sys
sys.path[:0] = ["tests", "."]
from pathlib import Path
from train_samples import tiny_recipe
from train.loop import run

data, root, resume, *overrides = sys.argv[1:]
run(Path(data), tiny_recipe(*overrides), run_root=Path(root), resume=resume == "resume")
"""
# Momentum of BatchNorm's running statistics aside, the same sums in another order.
COMMON = ("schedule.warmup_steps=0", "validation.every_epochs=0", "epochs=2")


def torchrun(tmp_path: Path, nproc: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={nproc}", str(script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cache")
    write_sample_cache(root, n_scans=5, sequences=("00",), n_points=300)
    return root


@pytest.mark.slow
def test_two_processes_train_what_one_trains_that_accumulates(data: Path, tmp_path: Path) -> None:
    """Five scans: the last step of an epoch has one for the first process, none for the second."""
    done = torchrun(tmp_path, 2, str(data), str(tmp_path / "two"), "new", *COMMON, "batch_size=1")
    assert done.returncode == 0, done.stderr[-2000:]
    recipe = tiny_recipe(*COMMON, "batch_size=1", "accumulate=2")
    run(data, recipe, run_root=tmp_path / "one")
    one, two = (final_weights(tmp_path / name) for name in ("one", "two"))
    for name, tensor in one.items():
        if "running" not in name and "tracked" not in name:
            torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.slow
def test_a_run_resumes_with_another_number_of_processes(data: Path, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def kill(count: int) -> None:
        if count == 2:
            raise Killed

    root = tmp_path / "run"
    with pytest.raises(Killed):
        run(
            data,
            tiny_recipe("batch_size=1"),
            run_root=root,
            progress=Heard(on_advance=kill),
        )
    done = torchrun(tmp_path, 2, str(data), str(root), "resume", "batch_size=1")
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    "name",
    [
        *("gpu", "mps", "xpu", "meta", "vulkan", "nonsense", "", "CUDA", "cuda:", "cuda:-1"),
        *("cuda:01", "cuda:1.0", "cuda:99999999999999999999", "cpu:3", "cuda:0 ", "mps:0"),
    ],
)
def test_a_device_on_which_nothing_runs_is_one_clear_error(name: str) -> None:
    with pytest.raises(ConfigError, match=r"cpu and cuda only\. Use auto, cpu, cuda"):
        choose_device(name)


def test_a_gpu_that_is_chosen_is_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    for wanted in ("cuda:1", "cuda", torch.device("cuda", 1), "auto", "cpu"):
        choose_device(wanted)
    assert current == [1, 0, 1, 0]
    for name in ("cuda:2", "cuda:256", "cuda:99"):  # torch itself takes cuda:256 for cuda:0
        with pytest.raises(ConfigError, match="torch sees 2 GPUs, the last is cuda:1"):
            choose_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="torch sees 0 GPUs"):
        choose_device("cuda:1")
    assert choose_device("auto") == choose_device("cpu:0") == torch.device("cpu")
