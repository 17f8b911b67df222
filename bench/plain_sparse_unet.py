"""MinkowskiNet and SPVCNN in the plain formulation, with the weights of ours: what bench compares.

Voxels by a lexicographic unique over rows, spconv's own search for neighbours in every forward
pass, corners and cells looked up by unique rows again, eight gathers per interpolation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.spconv_layers import (
    ConvAlgo,
    SparseConv3d,
    SparseConvTensor,
    SparseInverseConv3d,
    SubMConv3d,
)
from pass2d.models.inputs import PointBatch
from pass2d.models.sparse_unets.sparse_layers import DownConv, NeighbourConv, SparseConv, UpConv
from pass2d.models.sparse_unets.sparse_unet import ConvBlock, ResidualBlock, SparseUNet
from pass2d.models.sparse_unets.spvcnn import SPVCNN


def spconv_layer(layer: SparseConv, key: str) -> nn.Module:
    """The library's own layer around our weight."""
    n_out, size, _, _, n_in = layer.weight.shape
    kinds = {NeighbourConv: SubMConv3d, DownConv: SparseConv3d, UpConv: SparseInverseConv3d}
    extra = {"stride": 2} if isinstance(layer, DownConv) else {}
    algo = ConvAlgo.MaskImplicitGemm if layer.weight.is_cuda else ConvAlgo.Native
    built = kinds[type(layer)](
        n_in, n_out, size, bias=False, indice_key=key, algo=algo, **extra
    ).train(layer.training)
    built.weight = layer.weight
    return built


def with_features(voxels: SparseConvTensor, features: Tensor) -> SparseConvTensor:
    return voxels.replace_feature(features)


def run_layers(layers: nn.ModuleList, voxels: SparseConvTensor, level: int) -> SparseConvTensor:
    for layer in layers:
        if isinstance(layer, SparseConv):
            voxels = spconv_layer(layer, f"around{level}")(voxels)
        else:
            voxels = with_features(voxels, layer(voxels.features))
    return voxels


def residual(block: ResidualBlock, voxels: SparseConvTensor, level: int) -> SparseConvTensor:
    inner = run_layers(block.net, voxels, level)
    return with_features(inner, torch.relu(inner.features + block.downsample(voxels.features)))


def strided(block: ConvBlock, voxels: SparseConvTensor, key: str) -> SparseConvTensor:
    conv, norm = block.net
    voxels = spconv_layer(conv, key)(voxels)
    return with_features(voxels, torch.relu(norm(voxels.features)))


def down(stage: nn.ModuleList, voxels: SparseConvTensor, level: int) -> SparseConvTensor:
    first, *blocks = stage
    voxels = strided(first, voxels, f"down{level}")
    for block in blocks:
        voxels = residual(block, voxels, level + 1)
    return voxels


def up(
    stage: nn.ModuleList, voxels: SparseConvTensor, skip: SparseConvTensor, level: int
) -> SparseConvTensor:
    first, blocks = stage
    voxels = strided(first, voxels, f"down{level}")
    voxels = with_features(voxels, torch.cat([voxels.features, skip.features], 1))
    for block in blocks:
        voxels = residual(block, voxels, level)
    return voxels


def find_rows(wanted: Tensor, coords: Tensor) -> Tensor:
    """Row of each wanted voxel or -1, by sorting rows."""
    both = torch.cat([coords.long(), wanted.long()])
    distinct, inverse = torch.unique(both, dim=0, return_inverse=True)
    row = torch.full((len(distinct),), -1, device=coords.device)
    row[inverse[: len(coords)]] = torch.arange(len(coords), device=coords.device)
    return row[inverse[len(coords) :]]


def read(position: Tensor, sample: Tensor, voxels: SparseConvTensor, stride: int) -> Tensor:
    scaled = position / stride
    base = scaled.floor()
    part = scaled - base
    total = torch.zeros(len(position), device=position.device)
    result = torch.zeros(len(position), voxels.features.shape[1], device=position.device)
    for k in range(8):
        step = torch.tensor([k >> 2 & 1, k >> 1 & 1, k & 1], device=position.device)
        row = find_rows(torch.cat([sample[:, None], base.long() + step], 1), voxels.indices)
        weight = torch.where(step.bool(), part, 1 - part).prod(1) * (row >= 0)
        result = result + weight[:, None] * voxels.features[row.clamp(min=0)]
        total = total + weight
    return result / (total + 1e-8)[:, None]


def average(
    position: Tensor, sample: Tensor, z: Tensor, voxels: SparseConvTensor, stride: int
) -> SparseConvTensor:
    cell = torch.cat([sample[:, None], (position / stride).floor().long()], 1)
    row = find_rows(cell, voxels.indices)
    n_voxels = len(voxels.indices)
    total = torch.zeros(n_voxels, z.shape[1], device=z.device).index_add(0, row, z)
    count = torch.zeros(n_voxels, device=z.device).index_add(0, row, torch.ones_like(z[:, 0]))
    return with_features(voxels, total / count[:, None])


def plain_forward(network: SparseUNet, batch: PointBatch) -> Tensor:
    """(M, C) logits per occupied cell, from points alone."""
    voxel_m = network.config.voxel_m
    cells = torch.round(batch.points[:, :3] / voxel_m).long()
    n_scans = len(batch.offsets) - 1
    sample = torch.repeat_interleave(torch.arange(n_scans), batch.offsets.cpu().diff())
    sample = sample.to(cells.device)
    for b in range(n_scans):
        cells[sample == b] -= cells[sample == b].amin(0)
    coords, inverse = torch.unique(
        torch.cat([sample[:, None], cells], 1), dim=0, return_inverse=True
    )
    rows = torch.arange(len(inverse), device=cells.device)
    first = torch.full((len(coords),), len(inverse), device=cells.device)
    first = first.scatter_reduce(0, inverse, rows, "amin")
    shape = [int(-(-(size + 1) // 16) * 16) for size in coords[:, 1:].amax(0).tolist()]
    voxels = SparseConvTensor(batch.points[first], coords.int(), shape, n_scans)
    stages = (network.stage1, network.stage2, network.stage3, network.stage4)
    x0 = run_layers(network.stem, voxels, 0)
    if not isinstance(network, SPVCNN):
        x = [x0]
        for level, stage in enumerate(stages):
            x.append(down(stage, x[-1], level))
        y = up(network.up1, x[4], x[3], 3)
        y = up(network.up2, y, x[2], 2)
        y = up(network.up3, y, x[1], 1)
        return network.classifier(up(network.up4, y, x0, 0).features)
    where = ((coords[:, 1:].float() * voxel_m) / voxel_m, coords[:, 0])
    mlp = network.point_transforms
    z = read(*where, x0, 1)
    x = [average(*where, z, x0, 1)]
    for level, stage in enumerate(stages):
        x.append(down(stage, x[-1], level))
    z = read(*where, x[4], 16) + mlp[0](z)
    y = average(*where, z, x[4], 16)
    y = up(network.up1, with_features(y, network.dropout(y.features)), x[3], 3)
    y = up(network.up2, y, x[2], 2)
    z = read(*where, y, 4) + mlp[1](z)
    y = average(*where, z, y, 4)
    y = up(network.up3, with_features(y, network.dropout(y.features)), x[1], 1)
    y = up(network.up4, y, x0, 0)
    return network.classifier(read(*where, y, 1) + mlp[2](z))
