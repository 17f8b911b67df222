"""Questions to libraries that may crash: run as a script, in a process of its own.

    python -P probes.py torch | gpus | gpu DEVICE | spconv DEVICE | scatter DEVICE |
                        tensorboard | ray

The answer is one line of JSON, the last on stdout. Nothing of pass2d is imported here, so that a
broken library cannot be mistaken for a broken pass2d.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any


def probe_torch() -> dict[str, Any]:
    """Versions, and a product of matrices on the CPU; asks nothing of a driver."""
    import torch

    x = torch.ones(64, 64)
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
        "tf32_cudnn": torch.backends.cudnn.allow_tf32,
        "sum": float((x @ x).sum()),
    }


def probe_gpus() -> dict[str, Any]:
    """The GPUs that torch sees, and what it has machine code for; computes nothing on them."""
    import torch

    devices = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        devices.append(
            {
                "device": f"cuda:{index}",
                "name": properties.name,
                "memory": properties.total_memory,
                "capability": f"{properties.major}.{properties.minor}",
            }
        )
    return {"architectures": torch.cuda.get_arch_list(), "devices": devices}


def probe_gpu(device: str) -> dict[str, Any]:
    """A product of matrices on a GPU, and its free memory in bytes."""
    import torch

    x = torch.ones(64, 64, device=device)
    return {"sum": float((x @ x).sum()), "free": torch.cuda.mem_get_info(device)[0]}


def probe_spconv(device: str) -> dict[str, Any]:
    """A submanifold convolution forward and backward, against a dense one of torch."""
    import spconv
    import spconv.pytorch as sp
    import torch
    from spconv.core import ConvAlgo

    torch.manual_seed(0)
    algo = ConvAlgo.Native
    if device.startswith("cuda"):
        algo = ConvAlgo.MaskImplicitGemm
        torch.cuda.set_device(device)  # spconv launches its kernels there, wherever tensors are
    layer = sp.SubMConv3d(4, 8, 3, bias=False, algo=algo).to(device)
    voxels = torch.unique(torch.randint(0, 16, (400, 3)), dim=0).int()
    indices = torch.cat([torch.zeros(len(voxels), 1, dtype=torch.int32), voxels], 1).to(device)
    sparse_in = torch.randn(len(voxels), 4, device=device, requires_grad=True)
    ours = layer(sp.SparseConvTensor(sparse_in, indices, [16] * 3, 1)).features
    weight_of_output = torch.randn_like(ours)
    (ours * weight_of_output).sum().backward()
    x, y, z = voxels.long().T
    dense_in = sparse_in.detach().cpu().clone().requires_grad_()
    grid = torch.zeros(16, 16, 16, 4).index_put((x, y, z), dense_in).permute(3, 0, 1, 2)
    kernel = layer.weight.detach().cpu().permute(0, 4, 1, 2, 3)
    plain = torch.nn.functional.conv3d(grid[None], kernel, padding=1)[0][:, x, y, z].T
    (plain * weight_of_output.detach().cpu()).sum().backward()
    assert sparse_in.grad is not None
    assert dense_in.grad is not None
    return {
        "version": spconv.__version__,
        "forward_error": float((ours.detach().cpu() - plain.detach()).abs().max()),
        "backward_error": float((sparse_in.grad.cpu() - dense_in.grad).abs().max()),
    }


def probe_scatter(device: str) -> dict[str, Any]:
    """Sums of segments, as the networks ask for them."""
    import torch
    import torch_scatter

    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    values = torch.arange(6.0, device=device)[:, None]
    offsets = torch.tensor([0, 2, 6], device=device)
    sums = torch_scatter.segment_csr(values, offsets, reduce="sum")
    return {"version": torch_scatter.__version__, "sums": sums[:, 0].tolist()}


def probe_tensorboard() -> dict[str, Any]:
    """Only the import, as the training loop does it."""
    from importlib.metadata import version

    from torch.utils.tensorboard import SummaryWriter  # noqa: F401

    return {"version": version("tensorboard")}


def probe_ray() -> dict[str, Any]:
    """Only the import."""
    import ray

    return {"version": ray.__version__}


PROBES: dict[str, Callable[..., dict[str, Any]]] = {
    "torch": probe_torch,
    "gpus": probe_gpus,
    "gpu": probe_gpu,
    "spconv": probe_spconv,
    "scatter": probe_scatter,
    "tensorboard": probe_tensorboard,
    "ray": probe_ray,
}

if __name__ == "__main__":
    answer = PROBES[sys.argv[1]](*sys.argv[2:])
    sys.stdout.write("\n" + json.dumps(answer) + "\n")
