"""Image networks that take a test little time, where their size is not what it is about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from pass2d.models.twodpass.encoder2d import Encoder2D


@contextmanager
def thin_pictures(*, blocks: tuple[int, ...] = (1, 1, 1, 1)) -> Iterator[None]:
    """Within, image networks have an 8th of their channels: the same layers, in less time.

    Args:
        blocks: residual blocks per stage; of ResNet-34: 3, 4, 6, 3.
    """
    real = Encoder2D.__init__

    def init(self: Encoder2D, hidden: int) -> None:
        with torch.device("meta"):  # which draws no weights
            real(self, hidden)
        net = self.backbone
        for stage, n in zip((net.layer1, net.layer2, net.layer3, net.layer4), blocks, strict=True):
            del stage[n:]
        _thin(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Encoder2D, "__init__", init)
        yield


def _thin(module: nn.Module) -> None:
    def cut(channels: int) -> int:
        return channels if channels <= 4 else max(8, channels // 8)

    for parent in list(module.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                more = (
                    {"output_padding": layer.output_padding}
                    if isinstance(layer, nn.ConvTranspose2d)
                    else {}
                )
                thin = type(layer)(
                    cut(layer.in_channels),
                    cut(layer.out_channels),
                    layer.kernel_size,
                    stride=layer.stride,
                    padding=layer.padding,
                    bias=layer.bias is not None,
                    **more,
                )
                thin.to(memory_format=torch.channels_last)
                setattr(parent, name, thin)
            elif isinstance(layer, nn.BatchNorm2d):
                setattr(parent, name, type(layer)(cut(layer.num_features)))
