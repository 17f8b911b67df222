"""Recorded 2DPASS cases and what our network makes of them; for `test_golden.py`.

PASS2D_GOLDEN names another folder of the layout of tests/data/golden_generated; every case_* in it
is checked, whatever its sizes, and small/ and frame/ beside them (golden_small_checks.py).
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import SHARED
from numpy.typing import NDArray
from torch import Tensor, nn

from pass2d.cache.statistics import class_weights
from pass2d.models.inputs import Grid, ImageBatch, PointBatch
from pass2d.models.network import Segmentation
from pass2d.models.registry import build_network
from pass2d.models.twodpass.encoder2d import look_up
from pass2d.models.twodpass.hierarchy import build_levels
from pass2d.models.twodpass.published_names import (
    CLASS_WEIGHT_BUFFERS,
    our_name,
    our_tensor,
    published_name,
    published_tensor,
)
from pass2d.models.twodpass.twodpass import TwoDPass, TwoDPassBatch
from pass2d.train.optim.losses import LossConfig, LossTerms, compute_loss

VARIABLE = "PASS2D_GOLDEN"
GIVEN = os.environ.get(VARIABLE)
FOLDERS = (
    [Path(GIVEN)]
    if GIVEN
    else [Path(__file__).parent / "data" / "golden_generated", SHARED / "golden"]
)
IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
SLOW_PIXELS = 50_000
"""Float64 takes minutes for more."""


@dataclass(frozen=True, eq=False)
class Recording:
    """One recording."""

    folder: Path

    @classmethod
    def find_all(cls) -> list[Recording]:
        """All cases; a given folder must have some, or small recordings."""
        cases = [cls(path) for folder in FOLDERS for path in sorted(folder.glob("case_*/"))]
        if not cases and not any((folder / "small").is_dir() for folder in FOLDERS):
            raise FileNotFoundError(f"{VARIABLE}={GIVEN}: neither case_* nor small/ in it")
        return cases

    @property
    def name(self) -> str:
        return self.folder.name

    @cached_property
    def scalars(self) -> dict[str, Any]:
        return json.loads((self.folder / "scalars.json").read_text())

    @cached_property
    def config(self) -> dict[str, Any]:
        return self.scalars["config"]

    @cached_property
    def gradients(self) -> dict[str, Any]:
        return json.loads((self.folder / "gradients.json").read_text())

    @cached_property
    def inputs(self) -> dict[str, NDArray[Any]]:
        return load_arrays(self.folder / "inputs.npz")

    @cached_property
    def voxels(self) -> dict[str, NDArray[Any]]:
        return load_arrays(self.folder / "voxels.npz")

    @cached_property
    def forward(self) -> dict[str, NDArray[Any]]:
        return load_arrays(self.folder / "forward.npz")

    @property
    def grid(self) -> Grid:
        return Grid(
            low=tuple(self.config["min_volume_space"]),
            high=tuple(self.config["max_volume_space"]),
            shape=tuple(self.config["spatial_shape"]),
        )

    @property
    def state_entries(self) -> list[dict[str, Any]]:
        return json.loads((self.folder / "state_dict_keys.json").read_text())["entries"]

    def float64_noise(self, name: str) -> float:
        """Largest distance of two float64 runs of the original; 0 where nothing is said."""
        noise = self.noise.get("f64_1thread_vs_f64_4threads", {})
        return float(noise.get(name, {}).get("max", 0.0))

    def float32_noise(self, name: str, kind: str = "max") -> float | None:
        """Largest distance of the original's float32 runs from its float64; None: unsaid."""
        found = []
        for run in ("f32_1thread_vs_f64", "f32_4threads_vs_f64"):
            value = self.noise.get(run, {}).get(name)
            value = value.get(kind) if isinstance(value, dict) else value
            found += value if isinstance(value, list) else [value]
        return max((float(value) for value in found if value is not None), default=None)

    @cached_property
    def noise(self) -> dict[str, Any]:
        path = self.folder / "noise.json"
        return json.loads(path.read_text()) if path.is_file() else {}

    def summary(self, name: str) -> dict[str, Any]:
        """Of a recorded array: rows, row_step and more; empty where nothing is said."""
        return self.scalars.get("array_summaries", {}).get(name, {})

    @property
    def is_slow_in_float64(self) -> bool:
        return self.inputs["image"][..., 0].size > SLOW_PIXELS

    def network(self, device: str, dtype: torch.dtype, backend: str = "auto") -> TwoDPass:
        """With the recording's weights; every published tensor has a place and every place one."""
        settings = {"block_scales": self.config["scale_list"], "hidden": self.config["hidden"]}
        n_classes = self.config["num_classes"]
        network = build_network(
            "2dpass", settings, grid=self.grid, n_classes=n_classes, backend=backend
        )
        state = {}
        for entry in self.state_entries:
            name = entry["name"]
            if name not in CLASS_WEIGHT_BUFFERS:
                ours = our_name(name)
                assert ours is not None, name
                state[ours] = our_tensor(name, named_weight(name, entry["shape"]))
        network.load_state_dict(state)
        assert isinstance(network, TwoDPass)
        return network.to(device, dtype)

    def batch(self, device: str) -> PointBatch:
        numbers = self.inputs["batch_idx"].astype(np.int64)
        n_scans = len(self.inputs["image"])
        offsets = np.searchsorted(numbers, np.arange(n_scans + 1))
        pixels = [self.inputs[f"img_indices_{i}"] for i in range(n_scans)]
        seen = [self.inputs[f"point2img_index_{i}"] + offsets[i] for i in range(n_scans)]
        images = ImageBatch(
            images=self.images,
            image_index=torch.from_numpy(np.repeat(np.arange(n_scans), [len(p) for p in pixels])),
            pixel_rc=torch.from_numpy(np.concatenate(pixels).astype(np.int64)),
            point_index=torch.from_numpy(np.concatenate(seen).astype(np.int64)),
        )
        return PointBatch(
            points=torch.from_numpy(self.inputs["points"]),
            offsets=torch.from_numpy(offsets),
            labels=torch.from_numpy(self.inputs["labels"].astype(np.int64)),
            images=images,
        ).to(device)

    @property
    def images(self) -> Tensor:
        mean, std = torch.tensor(IMAGE_MEAN), torch.tensor(IMAGE_STD)
        images = torch.from_numpy(self.inputs["image"]).to(torch.float32) / 255
        return ((images - mean) / std).permute(0, 3, 1, 2)

    @property
    def loss_config(self) -> LossConfig:
        return LossConfig(
            lambda_lovasz=self.config["lambda_lovasz"],
            lambda_xm=self.config["lambda_xm"],
            lambda_2d=self.config["lambda_seg2d"],
        )

    def class_weights(self, device: str, dtype: torch.dtype) -> Tensor | None:
        counts = self.config.get("class_counts")
        if not counts:
            return None
        weights = torch.from_numpy(class_weights(counts)).to(dtype)
        if dtype == torch.float64:  # ours are rounded to float32, the recording's are not
            shares = torch.tensor([0, *counts[1:]], dtype=dtype)
            exact = (shares.max() / shares) ** (1 / 3)
            weights = torch.where(shares > 0, exact, weights)
        return weights.to(device)


def named_weight(name: str, shape: list[int]) -> Tensor:
    """The rule of the READMEs: every tensor from its name."""
    kind = name.rpartition(".")[2]
    if kind == "num_batches_tracked":
        return torch.tensor(0)
    z = named_noise(name, shape).astype(np.float32)
    if len(shape) >= 2:
        return torch.from_numpy(z * np.float32(np.sqrt(2 / np.prod(shape[1:]))))
    tenth = np.float32(0.1)
    shifted = {"weight": 1 + tenth * z, "running_var": 1 + tenth * np.abs(z)}
    return torch.from_numpy(shifted.get(kind, tenth * z))


def named_noise(name: str, shape: list[int] | tuple[int, ...]) -> NDArray[np.float64]:
    """Standard-normal values that depend on a name."""
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path) as arrays:
        return dict(arrays)


@dataclass(frozen=True, kw_only=True, eq=False)
class Pass:
    """One forward pass and its losses."""

    segmentation: Segmentation
    loss: LossTerms
    layers: tuple[NDArray[np.float64], ...]
    """(V, H) features of each block's voxels."""
    images: dict[int, NDArray[np.float64]]
    """(M, H) image features by scale; training only."""

    @property
    def logits(self) -> NDArray[np.float64]:
        return as_array(self.segmentation.logits)


@dataclass(frozen=True, kw_only=True, eq=False)
class Replay:
    """All passes of the recording, by our network, on one device in one precision."""

    case: Recording
    device: str
    dtype: torch.dtype
    evaluation: Pass
    calibrated: Pass
    training: Pass
    gradients: dict[str, NDArray[np.float64]]
    """By published name, in the published layout."""
    gradient_norm: float
    step_changes: dict[str, float]
    """Norm of each parameter's change, by published name."""
    statistics: dict[str, NDArray[np.float64]]
    """BatchNorm's running statistics after the training pass, by published name."""
    after_step: LossTerms


def replay(case: Recording, device: str, dtype: torch.dtype, backend: str) -> Replay:
    """What the recording did, with one forward pass for its two of training."""
    batch = case.batch(device)
    network = case.network(device, dtype, backend)
    evaluation = _evaluate(case, network, batch)
    calibrated_network = deepcopy(network)
    network.train()
    with _norms_hear_too(network, calibrated_network):
        training = _pass(case, network, batch)
    calibrated = _evaluate(case, calibrated_network, batch)
    statistics = {
        str(published_name(n)): as_array(b)
        for n, b in network.named_buffers()
        if b.is_floating_point()
    }
    training.loss.total.backward()
    parameters = {str(published_name(n)): p for n, p in network.named_parameters()}
    gradients = {
        str(published_name(n)): as_array(published_tensor(n, p.grad))
        for n, p in network.named_parameters()
        if p.grad is not None
    }
    before = {name: p.detach().clone() for name, p in parameters.items()}
    norm = nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    torch.optim.SGD(
        network.parameters(), lr=0.24, momentum=0.9, nesterov=True, weight_decay=1e-4
    ).step()
    return Replay(
        case=case,
        device=device,
        dtype=dtype,
        evaluation=evaluation,
        calibrated=calibrated,
        training=training,
        gradients=gradients,
        gradient_norm=float(norm),
        step_changes={n: float((p.detach() - before[n]).norm()) for n, p in parameters.items()},
        statistics=statistics,
        after_step=_evaluate(case, network, batch).loss,
    )


@contextmanager
def _norms_hear_too(network: TwoDPass, other: TwoDPass) -> Iterator[None]:
    """Within, the other network's norms take the statistics of what this one's norms are given.

    As the recording calibrates: momentum 1, and the same weights and batch as its training pass.
    """
    others = dict(other.named_modules())

    def hear(norm: nn.Module, given: tuple[Tensor]) -> None:
        with torch.no_grad():
            norm(*given)

    hooks = []
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            norm = others[name].train()
            norm.momentum = 1.0
            hooks.append(
                module.register_forward_pre_hook(lambda _m, given, norm=norm: hear(norm, given))
            )
    yield
    for hook in hooks:
        hook.remove()


def _evaluate(case: Recording, network: TwoDPass, batch: PointBatch) -> Pass:
    with torch.no_grad():
        return _pass(case, network.eval(), batch)


def _pass(case: Recording, network: TwoDPass, batch: PointBatch) -> Pass:
    prepared = network.prepare(batch)
    with _outputs_of(network) as outputs:
        segmentation = network(prepared)
    dtype = next(network.parameters()).dtype
    weights = case.class_weights(batch.points.device.type, dtype)
    return Pass(
        segmentation=segmentation,
        loss=compute_loss(segmentation, prepared, config=case.loss_config, class_weights=weights),
        layers=tuple(as_array(v) for v in outputs["encoder"].convolved),
        images=_image_rows(network, prepared, outputs.get("image_encoder")),
    )


@contextmanager
def _outputs_of(network: TwoDPass) -> Iterator[dict[str, Any]]:
    outputs: dict[str, Any] = {}
    hooks = [
        child.register_forward_hook(lambda _m, _i, out, name=name: outputs.update({name: out}))
        for name, child in network.named_children()
    ]
    yield outputs
    for hook in hooks:
        hook.remove()


def _image_rows(
    network: TwoDPass, prepared: TwoDPassBatch, maps: tuple[Tensor, ...] | None
) -> dict[int, NDArray[np.float64]]:
    if maps is None or prepared.image is None:
        return {}
    scales = network.config.block_scales
    return {
        scale: as_array(look_up(maps[(2, 4, 8, 16).index(scale)], rows))
        for scale, rows in zip(scales, prepared.image.map_rows, strict=True)
    }


def as_array(tensor: Tensor) -> NDArray[np.float64]:
    """A copy off the device and in float64."""
    return tensor.detach().cpu().to(torch.float64).numpy().copy()


def voxel_pieces(case: Recording, device: str) -> Any:
    """The levels of a case's points at every recorded scale."""
    batch = case.batch(device)
    scales = tuple(s for s in (1, 2, 4, 8, 16) if f"scale{s}_coors_inv" in case.voxels)
    return build_levels(batch.points, batch.offsets, grid=case.grid, scales=scales)
