"""Recognises a published state dict: architecture and sizes from its tensors' names and shapes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from pass2d.models.network import Network
from pass2d.models.sparse_unets import minkunet34_names as minkunet34
from pass2d.models.sparse_unets.kernel_layouts import KernelLayout
from pass2d.models.sparse_unets.sparse_unet import SparseUNetConfig
from pass2d.models.sparse_unets.torchsparse_names import from_torchsparse, to_torchsparse
from pass2d.models.twodpass.published_names import (
    CLASS_WEIGHT_BUFFERS,
    our_name,
    our_tensor,
    published_name,
    published_tensor,
)
from pass2d.models.vavit import published_names as vavit

Shapes = Mapping[str, tuple[int, ...]]
"""Published tensors by name."""

_TORCHSPARSE_BUFFERS = ("criterion.ce_loss.weight",)
_POINT_MLP = "model_3d.voxel_3d_generator.PPmodel"
_SCALES = (2, 4, 8, 16)


@dataclass(frozen=True, kw_only=True)
class PublishedLayout:
    """A published architecture, with the sizes of its tensors."""

    architecture: str
    """Key of `pass2d_models.registry.MODELS`."""
    settings: dict[str, Any]
    """Of that architecture's config."""
    n_classes: int
    """C, the ignored class included."""
    kernels: KernelLayout = "torchsparse"
    """The layout of sparse convolution kernels; MinkUNet34 was published in all three."""

    @property
    def set_aside(self) -> tuple[str, ...]:
        """Class weights of the loss: the file has them, no network needs them."""
        if self.architecture in ("vavit", "minkunet34"):
            return ()
        return CLASS_WEIGHT_BUFFERS if self.architecture == "2dpass" else _TORCHSPARSE_BUFFERS

    def with_scales(self, scales: Sequence[int]) -> PublishedLayout:
        """The same layout with the scales that the file's settings list, if there is one per block.

        Scales cannot be seen in the tensors; without a list they are those of the published models.
        """
        if len(scales) != len(self.settings.get("block_scales", ())) or not scales:
            return self
        return replace(self, settings={**self.settings, "block_scales": list(scales)})

    def expected(self, network: Network) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor that the published form of a network has."""
        state = network.state_dict()
        if self.architecture == "vavit":
            return vavit.published_shapes(state, heads=int(self.settings["heads"]))
        if self.architecture == "minkunet34":
            named = minkunet34.to_published(state, self.kernels)
            return {name: tuple(tensor.shape) for name, tensor in named.items()}
        if self.architecture != "2dpass":
            return {name: tuple(tensor.shape) for name, tensor in to_torchsparse(state).items()}
        shapes = {}
        for name, tensor in state.items():
            theirs = published_name(name)
            assert theirs is not None, f"{name} has no published name"
            shapes[theirs] = tuple(published_tensor(name, tensor).shape)
        return shapes

    def convert(self, tensors: Mapping[str, Tensor], network: Network) -> dict[str, Tensor]:
        """Convert a network's published tensors, by name, to our names and layout."""
        if self.architecture == "vavit":
            return vavit.from_published(tensors)
        if self.architecture == "minkunet34":
            return minkunet34.from_published(tensors, self.kernels, names=network.state_dict())
        if self.architecture != "2dpass":
            return from_torchsparse(tensors)
        converted = {}
        for name, tensor in tensors.items():
            ours = our_name(name)
            assert ours is not None, f"{name} is not one of ours"
            converted[ours] = our_tensor(name, tensor)
        return converted


def recognise(shapes: Shapes) -> PublishedLayout | None:
    """Recognise the architecture and its sizes.

    Returns:
        None if it is unknown.

    Raises:
        KeyError: all tensors that determine a size are missing or misshapen.
    """
    if any(name.startswith("model_3d.") for name in shapes):
        return _recognise_2dpass(shapes)
    if any(name.startswith("stem.") for name in shapes):
        return _recognise_unet(shapes)
    if any(name.startswith("backbone.conv_input.") for name in shapes):
        return _recognise_minkunet34(shapes)
    if any(name.startswith("vit.") for name in shapes):
        return _recognise_vavit(shapes)
    return None


def _size(shapes: Shapes, *places: tuple[str, int]) -> int:
    """The size that most of the given (tensor, axis) have; the first in a tie.

    So a missing or misshapen tensor is reported as such, instead of changing the size.
    """
    votes = [
        shapes[name][axis] for name, axis in places if name in shapes and len(shapes[name]) > axis
    ]
    if not votes:
        raise KeyError(" or ".join(name for name, _axis in places))
    return Counter(votes).most_common(1)[0][0]


def _count(shapes: Shapes, pattern: str) -> int:
    """The number of numbered parts of a network; a single high number is an unexpected tensor."""
    matches = (re.match(pattern, name) for name in shapes)
    numbers = {int(match[1]) for match in matches if match}
    return max((n for n in numbers if n < 2 * len(numbers)), default=-1) + 1


def _recognise_2dpass(shapes: Shapes) -> PublishedLayout:
    n_blocks = _count(shapes, r"model_3d\.spv_enc\.(\d{1,3})\.")
    # As all published models have them, which repeat the last.
    scales = [_SCALES[min(block, len(_SCALES) - 1)] for block in range(n_blocks)]
    has_images = any(name.startswith(("model_2d.", "fusion.multi")) for name in shapes)
    return PublishedLayout(
        architecture="2dpass",
        settings={
            "block_scales": scales,
            "hidden": _size(
                shapes,
                (f"{_POINT_MLP}.0.weight", 0),
                (f"{_POINT_MLP}.0.bias", 0),
                (f"{_POINT_MLP}.2.weight", 1),
                (f"{_POINT_MLP}.2.weight", 0),
                (f"{_POINT_MLP}.2.bias", 0),
            ),
            "image_branch": has_images,
        },
        n_classes=_size(
            shapes,
            ("model_3d.classifier.2.weight", 0),
            ("model_3d.classifier.2.bias", 0),
            ("model_3d.criterion.ce_loss.weight", 0),
            ("fusion.ce_loss.weight", 0),
            ("fusion.classifier.2.bias", 0),
        ),
    )


def _recognise_unet(shapes: Shapes) -> PublishedLayout:
    blocks = ["stem", *(f"stage{i}.1.net" for i in range(1, 5))]
    blocks += [f"up{i}.0.net" for i in range(1, 5)]
    widths = [
        _size(
            shapes,
            (f"{block}.0.kernel", 2),
            (f"{block}.1.weight", 0),
            (f"{block}.1.bias", 0),
            (f"{block}.1.running_mean", 0),
        )
        for block in blocks
    ]
    is_spvcnn = any(name.startswith("point_transforms.") for name in shapes)
    return PublishedLayout(
        architecture="spvcnn" if is_spvcnn else "minkowskinet",
        settings=_width_settings(widths),
        n_classes=_size(
            shapes,
            ("classifier.0.weight", 0),
            ("classifier.0.bias", 0),
            (_TORCHSPARSE_BUFFERS[0], 0),
        ),
    )


def _recognise_minkunet34(shapes: Shapes) -> PublishedLayout:
    kernels = _kernel_layout(shapes)
    blocks = [_count(shapes, rf"backbone\.encoder\.{i}\.(\d{{1,3}})\.") - 1 for i in range(4)]
    # The first convolution of each part with its norm, which has the part's width.
    parts = ["stem.1", *(f"stage{i}.1.net.1" for i in range(1, 5))]
    parts += [f"up{i}.0.net.1" for i in range(1, 5)]
    widths = [
        _size(
            shapes,
            *(
                (minkunet34.published_name(f"{part}.{leaf}", kernels), 0)
                for leaf in ("weight", "bias", "running_mean", "running_var")
            ),
        )
        for part in parts
    ]
    head = "decode_head.conv_seg"
    reads_one = shapes.get(f"{head}.weight", ())[-1:] == (widths[8],)
    return PublishedLayout(
        architecture="minkunet34",
        settings={
            "head": "v1" if reads_one else "v2",
            "blocks": blocks,
            **_width_settings(widths),
        },
        n_classes=_size(shapes, (f"{head}.weight", 0), (f"{head}.bias", 0)) + 1,
        kernels=kernels,
    )


def _width_settings(widths: list[int]) -> dict[str, Any]:
    """A factor on the published widths where one gives these, else the widths."""
    base = SparseUNetConfig().base_widths
    factor = widths[0] / base[0]
    is_scaled = [int(factor * width) for width in base] == widths
    return {"width_factor": factor} if is_scaled else {"base_widths": widths}


def _kernel_layout(shapes: Shapes) -> KernelLayout:
    """The library, from the form of most names."""
    kernels = sum(name.endswith(".kernel") for name in shapes)
    if 2 * kernels < sum(name.endswith((".kernel", "conv1.weight")) for name in shapes):
        return "spconv"
    wrapped = sum(name.endswith(".bn.running_mean") for name in shapes)
    norms = sum(name.endswith(".running_mean") for name in shapes)
    return "minkowski" if 2 * wrapped > norms else "torchsparse"


def _recognise_vavit(shapes: Shapes) -> PublishedLayout:
    width = _size(shapes, ("vit.channel_mix.0.gamma", 0), ("pad_token", 0))
    quarter = _size(shapes, ("vit.spatial_mix.0.inv_freq", 0))
    hidden = _size(shapes, ("vit.channel_mix.0.l1.weight", 0), ("vit.channel_mix.0.l2.weight", 1))
    return PublishedLayout(
        architecture="vavit",
        settings={
            "point_width": _size(
                shapes,
                ("embed.0.point_mlp.0.weight", 0),
                ("embed.0.neigh_mlp.0.weight", 0),
                ("embed.0.neigh_gate.0.bias", 0),
            ),
            "point_layers": _count(shapes, r"embed\.(\d{1,3})\."),
            "width": width,
            "depth": _count(shapes, r"vit\.channel_mix\.(\d{1,3})\."),
            "heads": width // (4 * quarter),
            "expansion": hidden / width,
            "head_width": _size(
                shapes, ("merge.point_proj.0.weight", 0), ("merge.bev_proj.0.weight", 0)
            ),
            "head_out": _size(shapes, ("merge.merge.0.weight", 0), ("classif.weight", 1)),
            "padding": "published",
            "drop_path": 0.0,
        },
        n_classes=_size(shapes, ("classif.weight", 0), ("classif.bias", 0)) + 1,
    )
