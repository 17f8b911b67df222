"""The 2D network of 2DPASS, in training: ResNet-34 and decoders (docs/maths.md, section 5).

The original decoders end with nearest upsampling to full resolution, followed by a lookup at the
points' pixels. This equals a lookup at (row // k, col // k) in the small map, so nothing is
upsampled.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from pass2d.common.errors import CheckpointError, ShapeError
from pass2d.models.norm import MapNorm

STRIDES = (2, 4, 4, 4)
"""Image pixels per pixel of each decoder's map, for the scales 2, 4, 8 and 16."""
SIDE_MULTIPLE = 16
_LOWEST_HALF_PX = 48
"""Pictures below this height are computed in float32 on a CPU: in bfloat16, oneDNN leaves parts of
the weight gradient of a 7x7 layer unwritten if the map has fewer than three rows (seen with torch
2.11)."""


def memory_order(device: torch.device) -> torch.memory_format:
    """The memory format of pictures, maps and weights.

    On CUDA channels_last, which suits the tensor cores. oneDNN on a CPU with AVX2 takes 1.7 times
    as long with it: 9.1 s against 5.3 s, forward and backward, for a picture of 320 x 480.
    """
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


def check_images(images: Tensor) -> None:
    """Refuse images that the network cannot halve four times.

    Raises:
        ShapeError: Not (I, 3, H, W), or a side that is not a multiple of 16.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ShapeError("images", expected="(I, 3, H, W)", got=tuple(images.shape))
    height, width = images.shape[2:]
    if height % SIDE_MULTIPLE or width % SIDE_MULTIPLE or not height or not width:
        raise ShapeError(
            "image height and width",
            expected="multiples of 16 (crop or resize to such a size)",
            got=f"{height} x {width}",
        )


def _conv(n_in: int, n_out: int) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, 7, padding=3, bias=False)


def _deconv(n_in: int, n_out: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(n_in, n_out, 3, stride=2, padding=1, output_padding=1)


def _decoder(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU(inplace=True))))


class Encoder2D(nn.Module):
    """Image features at the resolution at which they are computed."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        # Here, since it takes seconds and inference has no 2D branch.
        from torchvision.models import resnet34  # type: ignore[import-untyped]

        self.backbone = resnet34(weights=None, norm_layer=MapNorm)
        self.backbone.conv1.stride = (1, 1)  # the first stage then sees half resolution
        del self.backbone.fc, self.backbone.avgpool
        self.decoders = nn.ModuleList(
            [
                _decoder(_conv(64, hidden)),
                _decoder(_conv(128, hidden)),
                _decoder(_conv(256, 64), _deconv(64, hidden)),
                _decoder(_conv(512, 64), _deconv(64, 64), _deconv(64, hidden)),
            ]
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Encoder2D:
        """Move like every module, then convert the weights to the device's memory format."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                order = memory_order(layer.weight.device)
                layer.to(memory_format=order)  # type: ignore[call-overload]
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Feature maps, in the device's order of memory.

        Args:
            images: (I, 3, H, W), normalised.

        Returns:
            Four maps (I, H_c, H / k, W / k) with k of `STRIDES`.
        """
        is_bad = images.device.type == "cpu" and images.shape[2] < _LOWEST_HALF_PX
        full_precision = torch.autocast("cpu", enabled=False) if is_bad else nullcontext()
        with full_precision:
            return self._maps(images)

    def _maps(self, images: Tensor) -> tuple[Tensor, ...]:
        net = self.backbone
        x = images.contiguous(memory_format=memory_order(images.device))
        x = net.bn1(net.conv1(x))
        # The ReLU goes behind the pooling, where a map is a quarter as large: both give the same.
        x = net.relu(ordered_max_pool(x) if _is_ordered(x) else net.maxpool(x))
        maps = []
        for stage, decoder in zip(
            (net.layer1, net.layer2, net.layer3, net.layer4), self.decoders, strict=True
        ):
            x = stage(x)
            maps.append(decoder(x))
        return tuple(maps)


def _is_ordered(x: Tensor) -> bool:
    """Whether sums must have a fixed order, which torch's backward of max pooling does not give."""
    return x.is_cuda and torch.are_deterministic_algorithms_enabled()


def ordered_max_pool(x: Tensor) -> Tensor:
    """3 x 3 max pooling of (I, C, H, W), stride 2, padding 1, with gradients in a fixed order."""
    return _OrderedMaxPool.apply(x)  # type: ignore[no-untyped-call]


class _OrderedMaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        pooled, index = functional.max_pool2d_with_indices(x, (3, 3), (2, 2), (1, 1))
        ctx.save_for_backward(index)
        ctx.size = x.shape[2:]
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (grad,), (index,) = grads, ctx.saved_tensors
        (height, width), (rows, columns) = ctx.size, grad.shape[2:]
        padded = grad.new_zeros((*grad.shape[:2], height + 2, width + 2))
        top = 2 * torch.arange(rows, device=grad.device) - 1
        left = 2 * torch.arange(columns, device=grad.device) - 1
        # A pixel is in up to four windows, at a different position in each.
        for row, column in product(range(3), repeat=2):
            is_there = index == (top[:, None] + row) * width + left + column
            windows = padded[:, :, row : row + 2 * rows : 2, column : column + 2 * columns : 2]
            windows += grad * is_there
        return padded[:, :, 1 : height + 1, 1 : width + 1]


def pixel_rows(
    *, image_index: Tensor, pixel_rc: Tensor, image_hw: tuple[int, int], stride: int
) -> Tensor:
    """(M,) int64 row of each pixel in a map of `stride`, seen as (I * H / k * W / k, channels)."""
    height, width = image_hw[0] // stride, image_hw[1] // stride
    row, column = (pixel_rc // stride).unbind(1)
    return torch.add(column, torch.add(row, image_index, alpha=height), alpha=width)


def look_up(feature_map: Tensor, rows: Tensor) -> Tensor:
    """(M, channels) features at the rows that `pixel_rows` names."""
    return feature_map.permute(0, 2, 3, 1).reshape(-1, feature_map.shape[1]).index_select(0, rows)


def load_imagenet(encoder: Encoder2D, weights_file: str) -> str:
    """Initialise the backbone with ImageNet weights, if there are any on this machine.

    Args:
        encoder: Changed in place.
        weights_file: A state dict with torchvision's names; "" looks into torchvision's cache only.

    Returns:
        Where the weights came from; "" when there are none and the random ones stay.

    Raises:
        CheckpointError: The named file is missing, unreadable or of another network.
    """
    from torchvision.models import ResNet34_Weights

    name = Path(ResNet34_Weights.IMAGENET1K_V1.url).name
    cached = Path(torch.hub.get_dir()) / "checkpoints" / name
    path = Path(weights_file) if weights_file else cached
    if not path.is_file():
        if weights_file:
            raise CheckpointError(f"{path}: no such file; expected ResNet-34 weights ({name})")
        return ""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        wanted = {k: v for k, v in state.items() if not k.startswith("fc.")}
        encoder.backbone.load_state_dict(wanted)
    except Exception as error:  # unpickling an arbitrary file can raise any exception
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{path}: not the weights of torchvision's ResNet-34: {reason}"
        ) from error
    return str(path)
