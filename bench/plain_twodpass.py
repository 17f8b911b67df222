"""2DPASS in plain formulation, from docs/maths.md, for comparison: same weights and numbers.

Lexicographic unique over rows for voxels and voxel labels, every layer of the point branch and the
heads on all points, image features upsampled to full resolution, one Lovasz per class.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from bench.spconv_layers import ConvAlgo, SparseConvTensor, SubMConv3d
from pass2d.models.inputs import Grid, PointBatch
from pass2d.models.twodpass.encoder2d import STRIDES
from pass2d.models.twodpass.encoder3d import (
    Block,
    ResidualBlock,
    SubmanifoldConv,
    leaky_relu,
    network_scales,
)
from pass2d.models.twodpass.twodpass import TwoDPass
from pass2d.train.optim.losses import LossConfig

IMAGE_SCALES = (2, 4, 8, 16)


@dataclass(frozen=True, kw_only=True)
class PlainVoxels:
    coords: Tensor  # (V, 4) int64: batch, x, y, z
    inverse: Tensor
    shape: tuple[int, ...]


def batch_index(batch: PointBatch) -> Tensor:
    counts = batch.offsets[1:] - batch.offsets[:-1]
    return torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)


def plain_voxels(
    batch: PointBatch, *, grid: Grid, scales: tuple[int, ...]
) -> dict[int, PlainVoxels]:
    device = batch.points.device
    low = torch.tensor(grid.low, device=device)
    extent = torch.tensor(grid.high, device=device) - low
    index = batch_index(batch)
    found = {}
    for scale in scales:
        shape = tuple(-(-n // scale) for n in grid.shape)
        cells = torch.tensor(shape, device=device) * (batch.points[:, :3] - low) / extent
        rows = torch.cat([index[:, None], cells.floor().to(torch.int64)], dim=1)
        coords, inverse = torch.unique(rows, dim=0, return_inverse=True)
        found[scale] = PlainVoxels(coords=coords, inverse=inverse, shape=shape)
    return found


def scatter_mean(rows: Tensor, index: Tensor, n: int) -> Tensor:
    total = rows.new_zeros((n, rows.shape[1])).index_add(0, index, rows)
    count = rows.new_zeros(n).index_add(0, index, torch.ones_like(index, dtype=rows.dtype))
    return total / count[:, None]


def plain_voxel_labels(voxels: PlainVoxels, labels: Tensor, *, n_classes: int) -> Tensor:
    pairs = torch.stack([voxels.inverse, labels], dim=1)
    distinct, count = torch.unique(pairs, dim=0, return_counts=True)
    votes = torch.zeros((len(voxels.coords), n_classes), dtype=torch.int64, device=labels.device)
    votes[distinct[:, 0], distinct[:, 1]] = count
    return votes.argmax(1)


def plain_point_encoder(
    net: TwoDPass, points: Tensor, voxels: PlainVoxels, *, grid: Grid
) -> Tensor:
    n = len(voxels.coords)
    size = (torch.tensor(grid.high) - torch.tensor(grid.low)) / torch.tensor(grid.shape)
    corner = voxels.coords[:, 1:] * size.to(points) + torch.tensor(grid.low).to(points)
    mean = scatter_mean(points[:, :3], voxels.inverse, n)
    offsets = [points[:, :3] - mean[voxels.inverse], points[:, :3] - corner[voxels.inverse]]
    layers = net.encoder.points
    rows = layers.outer(functional.relu(layers.inner(torch.cat([points, *offsets], dim=1))))
    return scatter_mean(rows, voxels.inverse, n)


def plain_conv(layer: SubmanifoldConv, voxels: SparseConvTensor) -> SparseConvTensor:
    weight = layer.conv.weight
    algo = ConvAlgo.MaskImplicitGemm if weight.is_cuda else ConvAlgo.Native
    conv = SubMConv3d(
        weight.shape[-1], len(weight), 3, bias=False, indice_key="neighbours", algo=algo
    )
    conv.weight = weight
    return conv(voxels)


def plain_residual(block: ResidualBlock, voxels: SparseConvTensor) -> SparseConvTensor:
    identity = block.shortcut_norm(block.shortcut(voxels.features))
    inner = plain_conv(block.conv1, voxels)
    inner = plain_conv(block.conv2, inner.replace_feature(leaky_relu(block.norm1(inner.features))))
    return inner.replace_feature(leaky_relu(block.norm2(inner.features) + identity))


def plain_block(
    block: Block, features: Tensor, fine: PlainVoxels, coarse: PlainVoxels, n_scans: int
) -> tuple[Tensor, Tensor, Tensor]:
    coords = fine.coords[:, [0, 3, 2, 1]].to(torch.int32)
    voxels = SparseConvTensor(features, coords, list(reversed(fine.shape)), n_scans)
    for residual in block.voxel:
        voxels = plain_residual(residual, voxels)
    convolved = voxels.features
    both = features + convolved
    layers = block.point
    halved = torch.cat([fine.coords[:, :1], fine.coords[:, 1:] // 2], dim=1)
    groups, group = torch.unique(halved, dim=0, return_inverse=True)
    shared = scatter_mean(both, group, len(groups))
    shared = layers.group_norm1(leaky_relu(layers.group1(shared)))
    shared = layers.group_norm2(leaky_relu(layers.group2(shared)))
    shared = leaky_relu(layers.group3(shared))[group][fine.inverse]
    own = leaky_relu(layers.own(both[fine.inverse]))
    merged = layers.out(leaky_relu(layers.merge(torch.cat([own, shared], dim=1))))
    n = len(coarse.coords)
    pooled = scatter_mean(merged, coarse.inverse, n)
    onward = pooled + scatter_mean(convolved[fine.inverse], coarse.inverse, n)
    return convolved, pooled[coarse.inverse], onward


@dataclass(frozen=True, kw_only=True)
class PlainAnswer:
    logits: Tensor
    blocks: list[tuple[Tensor, Tensor, Tensor]]  # 3D logits of voxels, fused ones, 3D at pixels
    image_logits: Tensor
    starts: list[PlainVoxels]


def plain_forward(net: TwoDPass, batch: PointBatch, found: dict[int, PlainVoxels]) -> PlainAnswer:
    scales = net.config.block_scales
    fine = found[network_scales(net.config)[0]]
    features = plain_point_encoder(net, batch.points, fine, grid=net.grid)
    outputs, convolved, starts = [], [], []
    for block, scale in zip(net.encoder.blocks, scales, strict=True):
        v, output, features = plain_block(
            block, features, fine, found[scale], len(batch.offsets) - 1
        )
        outputs.append(output)
        convolved.append(v)
        starts.append(fine)
        fine = found[scale]
    logits = net.head.outer(functional.relu(net.head.inner(torch.cat(outputs, dim=1))))
    assert batch.images is not None
    maps = net.image_encoder(batch.images.images)
    full = [
        functional.interpolate(m, scale_factor=k, mode="nearest")
        for m, k in zip(maps, STRIDES, strict=True)
    ]
    seen, blocks, fused_all = batch.images.point_index, [], []
    row, col = batch.images.pixel_rc.unbind(1)
    for i, scale in enumerate(scales):
        block = net.distillation.blocks[i]
        picture = full[IMAGE_SCALES.index(scale)].permute(0, 2, 3, 1)
        image = picture[batch.images.image_index, row, col]
        query = functional.relu(block.learner(convolved[i][starts[i].inverse][seen]))
        merged = block.merge(torch.cat([image, query], dim=1))
        fused = functional.relu(merged * torch.sigmoid(block.gate(merged)))
        voxel_logits = block.voxel_head(convolved[i])
        at_seen = voxel_logits[starts[i].inverse][seen]
        blocks.append((voxel_logits, block.fused_head(fused), at_seen))
        fused_all.append(fused)
    image_logits = net.distillation.head(torch.cat(fused_all, dim=1))
    return PlainAnswer(logits=logits, blocks=blocks, image_logits=image_logits, starts=starts)


def plain_loss(net: TwoDPass, batch: PointBatch, answer: PlainAnswer, config: LossConfig) -> Tensor:
    assert batch.labels is not None
    assert batch.images is not None
    seen_labels, n_blocks = batch.labels[batch.images.point_index], len(answer.blocks)
    ce, lovasz = plain_losses(answer.logits, batch.labels)
    total = ce + config.lambda_lovasz * lovasz + sum(plain_losses(answer.image_logits, seen_labels))
    for start, (voxel_logits, fused_logits, at_seen) in zip(
        answer.starts, answer.blocks, strict=True
    ):
        labels = plain_voxel_labels(start, batch.labels, n_classes=net.n_classes)
        total = total + sum(plain_losses(voxel_logits, labels))
        fused = sum(plain_losses(fused_logits, seen_labels))
        divergence = functional.kl_div(
            functional.log_softmax(at_seen, dim=1),
            functional.softmax(fused_logits.detach(), dim=1),
            reduction="sum",
        )
        total = total + fused * config.lambda_2d / n_blocks
        total = total + divergence / at_seen.numel() * config.lambda_xm / n_blocks
    return total


def plain_losses(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    ce = functional.cross_entropy(logits, labels, ignore_index=0)
    keep = labels != 0
    return ce, plain_lovasz(functional.softmax(logits, dim=1)[keep], labels[keep])


def plain_lovasz(probs: Tensor, labels: Tensor) -> Tensor:
    losses = []
    for c in range(probs.shape[1]):
        hit = (labels == c).to(probs.dtype)
        if hit.sum() == 0:
            continue
        errors, order = torch.sort((hit - probs[:, c]).abs(), descending=True)
        hit = hit[order]
        intersection = hit.sum() - hit.cumsum(0)
        union = hit.sum() + (1 - hit).cumsum(0)
        jaccard = 1 - intersection / union
        jaccard[1:] = jaccard[1:] - jaccard[:-1].clone()
        losses.append((errors * jaccard).sum())
    return torch.stack(losses).mean()
