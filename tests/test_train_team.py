"""Several processes on one machine train what one process trains."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from cache_samples import write_sample_cache
from heard import Heard
from team_samples import exit_codes
from torch import distributed
from train_samples import final_weights, tiny_recipe

from pass2d.common.errors import ConfigError
from pass2d.train.distributed.heartbeat import LostProcessError
from pass2d.train.distributed.process_group import (
    backend_of,
    choose_device,
    collective,
    require_own_gpus,
)
from pass2d.train.loop import run
from pass2d.train.run.state import fresh_scaler

SCRIPT = """
import sys
sys.path[:0] = ["tests", "."]
from pathlib import Path
from train_samples import tiny_recipe
from pass2d.train.loop import run

data, root, *overrides = sys.argv[1:]
run(Path(data), tiny_recipe(*overrides), run_root=Path(root))
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
    done = torchrun(tmp_path, 2, str(data), str(tmp_path / "two"), *COMMON, "batch_size=1")
    assert done.returncode == 0, done.stderr[-2000:]
    recipe = tiny_recipe(*COMMON, "batch_size=1", "accumulate=2")
    run(data, recipe, run_root=tmp_path / "one")
    one, two = (final_weights(tmp_path / name) for name in ("one", "two"))
    for name, tensor in one.items():
        if "running" not in name and "tracked" not in name:
            torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-6, msg=name)


def resume(data: Path, root: Path) -> None:
    run(data, tiny_recipe("batch_size=1"), run_root=root, resume=True)


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
    assert exit_codes(2, resume, data, root) == [0, 0]


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


def see_gpus(monkeypatch: pytest.MonkeyPatch, *, count: int, local: int, n_local: int) -> None:
    """This process as a launcher starts it, on a machine with GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _index: None)
    monkeypatch.setenv("LOCAL_RANK", str(local))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(n_local))


def test_each_process_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    see_gpus(monkeypatch, count=4, local=2, n_local=4)
    assert choose_device("auto") == torch.device("cuda", 2)
    see_gpus(monkeypatch, count=1, local=2, n_local=4)  # shown one each (CUDA_VISIBLE_DEVICES)
    assert choose_device("cuda") == torch.device("cuda", 0)
    see_gpus(monkeypatch, count=2, local=1, n_local=4)
    with pytest.raises(ConfigError, match="4 processes are to run here, but torch sees 2 GPUs"):
        choose_device("cuda")


@pytest.mark.parametrize("gpus", [["a/1", "a/2", "b/1"], ["a/1", "b/1", "b/1"]])
def test_processes_that_share_a_gpu_are_all_refused(gpus: list[str]) -> None:
    store = distributed.HashStore()

    def ask(rank: int) -> str:
        try:
            require_own_gpus(store, rank=rank, world=3, identity=gpus[rank])
        except ConfigError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(3) as pool:
        said = list(pool.map(ask, range(3)))
    is_shared = len(set(gpus)) < len(gpus)
    assert [text.startswith("2 processes are to run here") for text in said] == [is_shared] * 3


def test_a_gpu_is_named_to_nccl_so_that_no_barrier_guesses_it() -> None:
    assert backend_of(torch.device("cpu")) == {"backend": "gloo"}
    gpu = torch.device("cuda", 3)
    assert backend_of(gpu) == {"backend": "nccl", "device_id": gpu}


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: device-side assert triggered"),
        distributed.DistBackendError("NCCL error: ncclUnhandledCudaError: Call to CUDA failed"),
        distributed.DistBackendError("ncclInvalidUsage: Duplicate GPU detected : rank 1, rank 0"),
        RuntimeError("No backend type associated with device type meta"),
    ],
)
def test_a_fault_of_this_process_is_not_called_a_lost_one(error: RuntimeError) -> None:
    with pytest.raises(type(error)) as raised, collective():
        raise error
    assert raised.value is error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[/x/third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed"),
        distributed.DistBackendError("NCCL error: ncclRemoteError: a remote process exited"),
        distributed.DistBackendError("NCCL communicator was aborted on rank 0"),
        distributed.DistNetworkError("recvValue failed on SocketImpl: Broken pipe"),
    ],
)
def test_a_broken_connection_is_a_lost_process(error: RuntimeError) -> None:
    with pytest.raises(LostProcessError, match="`resume` to continue"), collective():
        raise error


def test_a_loss_scaler_serves_a_process_whose_first_step_has_no_scan() -> None:
    scaler = fresh_scaler(torch.device("cpu"))
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.full((2,), 2.0**16)  # the others' sum
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scaler.unscale_(optimizer)
    assert weight.grad.tolist() == [1.0, 1.0]
    scaler.update()
    again = fresh_scaler(torch.device("cpu"))
    again.load_state_dict({**scaler.state_dict(), "scale": 8.0})
    assert again.get_scale() == 8.0
