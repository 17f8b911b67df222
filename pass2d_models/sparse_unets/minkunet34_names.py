"""Names and layouts of MinkUNet34's tensors in published checkpoints, and ours.

The network was published for three libraries, each with its own names and kernels; see
docs/maths.md, section 6.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from pass2d.models.sparse_unets.kernel_layouts import KernelLayout, library_kernel, our_kernel

_HEAD = "decode_head.conv_seg"

_OURS = re.compile(
    r"(?:stem|stage(?P<stage>[1-4])\.(?P<down>\d+)|up(?P<up>[1-4])\.(?P<half>0|1\.\d+))"
    r"(?:\.(?P<branch>net|downsample))?\.(?P<layer>\d)\.(?P<leaf>\w+)"
)

_NAMES: dict[KernelLayout, dict[str, tuple[str, str]]] = {
    "torchsparse": {
        "block": ("net.0.kernel", "net.1.{leaf}"),
        "residual": ("net.{layer}.kernel", "net.{layer}.{leaf}"),
        "shortcut": ("downsample.0.kernel", "downsample.1.{leaf}"),
    },
    "minkowski": {
        "block": ("net.0.kernel", "net.1.bn.{leaf}"),
        "residual": ("conv{number}.kernel", "norm{number}.bn.{leaf}"),
        "shortcut": ("downsample.net.0.kernel", "downsample.net.1.bn.{leaf}"),
    },
    "spconv": {
        "block": ("0.weight", "1.{leaf}"),
        "residual": ("conv{number}.weight", "bn{number}.{leaf}"),
        "shortcut": ("downsample.0.weight", "downsample.1.{leaf}"),
    },
}
"""Names of a convolution and of a norm by the part of the network they belong to."""


def published_name(name: str, layout: KernelLayout) -> str:
    """The published name of one of our tensors."""
    if name.startswith("classifier.0."):
        return name.replace("classifier.0", _HEAD)
    match = _OURS.fullmatch(name)
    assert match is not None, f"{name} is not a tensor of MinkUNet34"
    # A block's layers are convolution, norm, ReLU, and once more: 0, 1, 2, 3, 4, 5.
    number, kind = divmod(int(match["layer"]), 3)
    if match["stage"]:
        block, part = f"encoder.{int(match['stage']) - 1}.{match['down']}", match["down"]
    elif match["up"]:
        block, part = f"decoder.{int(match['up']) - 1}.{match['half']}", match["half"]
    else:
        block, part = f"conv_input.{number}", "0"
    role = "block" if part == "0" else "residual"
    if match["branch"] == "downsample":
        role = "shortcut"
    below = _NAMES[layout][role][kind].format(
        layer=match["layer"], number=number + 1, leaf=match["leaf"]
    )
    return f"backbone.{block}.{below}"


def to_published(state: Mapping[str, Tensor], layout: KernelLayout) -> dict[str, Tensor]:
    """Our tensors under the names and in the layout of a library."""
    return {
        published_name(name, layout): (
            library_kernel(tensor, layout) if _is_kernel(name, tensor) else tensor
        )
        for name, tensor in state.items()
    }


def from_published(
    tensors: Mapping[str, Tensor], layout: KernelLayout, *, names: Iterable[str]
) -> dict[str, Tensor]:
    """The inverse of `to_published`.

    Args:
        tensors: By published name.
        layout: Of their names and kernels.
        names: Ours, of the whole network.
    """
    theirs = {name: tensors[published_name(name, layout)] for name in names}
    return {
        name: our_kernel(tensor, layout) if _is_kernel(name, tensor) else tensor
        for name, tensor in theirs.items()
    }


def _is_kernel(name: str, tensor: Tensor) -> bool:
    return tensor.ndim >= 2 and not name.startswith("classifier.")
