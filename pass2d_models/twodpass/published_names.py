"""Names and layouts of the published 2DPASS code's state dict, and ours: both directions.

Only names and shapes are known here; files are read by `train/checkpoints/published/importer.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import Tensor

CLASS_WEIGHT_BUFFERS = ("model_3d.criterion.ce_loss.weight", "fusion.ce_loss.weight")
"""Loss settings that the published state dicts carry and that our networks do not hold."""

# (published, ours); {n}: a number that both have; the rest of a name follows unchanged.
_RULES = (
    ("model_3d.voxel_3d_generator.PPmodel.0", "encoder.points.inner"),
    ("model_3d.voxel_3d_generator.PPmodel.2", "encoder.points.outer"),
    ("model_3d.spv_enc.{n}.v_enc.{n}.layers_in.0", "encoder.blocks.{n}.voxel.{n}.shortcut"),
    ("model_3d.spv_enc.{n}.v_enc.{n}.layers_in.1", "encoder.blocks.{n}.voxel.{n}.shortcut_norm"),
    ("model_3d.spv_enc.{n}.v_enc.{n}.layers.0", "encoder.blocks.{n}.voxel.{n}.conv1.conv"),
    ("model_3d.spv_enc.{n}.v_enc.{n}.layers.1", "encoder.blocks.{n}.voxel.{n}.norm1"),
    ("model_3d.spv_enc.{n}.v_enc.{n}.layers.3", "encoder.blocks.{n}.voxel.{n}.conv2.conv"),
    ("model_3d.spv_enc.{n}.v_enc.{n}.layers.4", "encoder.blocks.{n}.voxel.{n}.norm2"),
    ("model_3d.spv_enc.{n}.p_enc.layer_in.0", "encoder.blocks.{n}.point.own"),
    ("model_3d.spv_enc.{n}.p_enc.PPmodel.0", "encoder.blocks.{n}.point.group1"),
    ("model_3d.spv_enc.{n}.p_enc.PPmodel.2", "encoder.blocks.{n}.point.group_norm1"),
    ("model_3d.spv_enc.{n}.p_enc.PPmodel.3", "encoder.blocks.{n}.point.group2"),
    ("model_3d.spv_enc.{n}.p_enc.PPmodel.5", "encoder.blocks.{n}.point.group_norm2"),
    ("model_3d.spv_enc.{n}.p_enc.PPmodel.6", "encoder.blocks.{n}.point.group3"),
    ("model_3d.spv_enc.{n}.p_enc.layer_out.0", "encoder.blocks.{n}.point.merge"),
    ("model_3d.spv_enc.{n}.p_enc.layer_out.2", "encoder.blocks.{n}.point.out"),
    ("model_3d.classifier.0", "head.inner"),
    ("model_3d.classifier.2", "head.outer"),
    ("model_2d.deconv_layer1", "image_encoder.decoders.0"),
    ("model_2d.deconv_layer2", "image_encoder.decoders.1"),
    ("model_2d.deconv_layer3", "image_encoder.decoders.2"),
    ("model_2d.deconv_layer4", "image_encoder.decoders.3"),
    ("model_2d", "image_encoder.backbone"),
    ("fusion.multihead_3d_classifier.{n}", "distillation.blocks.{n}.voxel_head"),
    ("fusion.multihead_fuse_classifier.{n}", "distillation.blocks.{n}.fused_head"),
    ("fusion.leaners.{n}.0", "distillation.blocks.{n}.learner"),
    ("fusion.fcs1.{n}.0", "distillation.blocks.{n}.merge"),
    ("fusion.fcs2.{n}.0", "distillation.blocks.{n}.gate"),
    ("fusion.classifier", "distillation.head"),
)


def _compile(source: str) -> re.Pattern[str]:
    return re.compile(re.escape(source).replace(r"\{n\}", r"(\d+)") + r"\.(.+)")


def _template(target: str) -> str:
    return target.replace("{n}", "{}") + ".{}"


_TO_OURS = [(_compile(theirs), _template(ours)) for theirs, ours in _RULES]
_TO_PUBLISHED = [(_compile(ours), _template(theirs)) for theirs, ours in _RULES]


def _rename(name: str, rules: Iterable[tuple[re.Pattern[str], str]]) -> str | None:
    for pattern, template in rules:
        match = pattern.fullmatch(name)
        if match is not None:
            return template.format(*match.groups())
    return None


def our_name(published: str) -> str | None:
    """Our name of a published tensor; None for the loss's class weights and for unknown names."""
    return None if published in CLASS_WEIGHT_BUFFERS else _rename(published, _TO_OURS)


def published_name(ours: str) -> str | None:
    """The published name of one of our tensors; None if the published network does not have it."""
    return _rename(ours, _TO_PUBLISHED)


def our_tensor(published: str, tensor: Tensor) -> Tensor:
    """A published tensor in our layout, of the same type.

    A sparse convolution of size 1 is a linear layer here. spconv declares its weight as [out, 1, 1,
    1, in] but multiplies by ``weight.view(in, out)``, so the linear weight is the transpose of that
    view.
    """
    if published.endswith(".layers_in.0.weight"):
        n_out, n_in = tensor.shape[0], tensor.shape[-1]
        return tensor.reshape(n_in, n_out).T.contiguous()
    return tensor


def published_tensor(ours: str, tensor: Tensor) -> Tensor:
    """One of our tensors (a weight, or its gradient) in the published layout."""
    if ours.endswith(".shortcut.weight"):
        n_out, n_in = tensor.shape
        return tensor.T.reshape(n_out, 1, 1, 1, n_in)
    return tensor
