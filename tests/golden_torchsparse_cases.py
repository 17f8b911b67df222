"""Recordings of the two torchsparse networks, and what ours make of them.

PASS2D_GOLDEN_TORCHSPARSE names another folder of the layout of ../shared/golden_torchsparse.
"""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import SHARED
from numpy.typing import NDArray
from torch import Tensor, nn

from pass2d.cache.statistics import class_weights
from pass2d.models.inputs import Grid, PointBatch
from pass2d.models.network import Segmentation
from pass2d.models.registry import build_network
from pass2d.models.sparse_unets.devoxelize import Cells
from pass2d.models.sparse_unets.sparse_unet import PreparedVoxels, SparseUNet
from pass2d.models.sparse_unets.spvcnn import PreparedPointVoxels
from pass2d.models.sparse_unets.stride_levels import StrideLevel
from pass2d.models.sparse_unets.torchsparse_names import from_torchsparse, to_torchsparse
from pass2d.train.optim.losses import LossConfig, LossTerms, compute_loss

VARIABLE = "PASS2D_GOLDEN_TORCHSPARSE"
FOLDER = Path(os.environ.get(VARIABLE) or SHARED / "golden_torchsparse")
IS_GIVEN = bool(os.environ.get(VARIABLE))
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
ANY_GRID = Grid(low=(-50, -50, -4), high=(50, 50, 2), shape=(1000, 1000, 60))
"""These networks take all points, whatever the volume."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One recording: a network on a batch."""

    name: str
    facts: dict[str, Any]

    @classmethod
    def find_all(cls) -> list[Case]:
        """Every recording of the folder; none where it is absent."""
        cases = []
        for path in sorted(FOLDER.glob("*.json")):
            facts = json.loads(path.read_text())
            if "state_dict" in facts:
                cases.append(cls(name=path.stem, facts=facts))
        return cases

    @property
    def kind(self) -> str:
        return self.facts["config"]["arch"]

    @cached_property
    def inputs(self) -> dict[str, NDArray[Any]]:
        return load_arrays(FOLDER / f"{self.name.replace(f'{self.kind}_', '')}_inputs.npz")

    @cached_property
    def result(self) -> dict[str, NDArray[Any]]:
        return load_arrays(FOLDER / f"{self.name}_result.npz")

    def network(self, device: str, backend: str = "auto") -> SparseUNet:
        """With the recording's weights and without dropout."""
        config = self.facts["config"]
        settings = {
            "base_widths": config["layer_num"],
            "width_factor": float(config["cr"]),
            "voxel_m": config["voxel_size"],
        }
        if self.kind == "spvcnn":
            settings["dropout"] = 0.0
        network = build_network(
            self.kind,
            settings,
            grid=ANY_GRID,
            n_classes=config["num_class"],
            device=device,
            backend=backend,
        )
        assert isinstance(network, SparseUNet)
        loaded = network.load_state_dict(from_torchsparse(_weights(self)), strict=False)
        assert not loaded.unexpected_keys
        assert all(name.endswith("num_batches_tracked") for name in loaded.missing_keys)
        return network

    def batch(self, device: str) -> PointBatch:
        numbers = self.inputs["point_batch"].astype(np.int64)
        offsets = np.searchsorted(numbers, np.arange(numbers.max() + 2))
        return PointBatch(
            points=torch.from_numpy(self.inputs["points"]),
            offsets=torch.from_numpy(offsets),
            labels=torch.from_numpy(self.inputs["point_labels"].astype(np.int64)),
        ).to(device)

    @property
    def noise(self) -> dict[str, Any]:
        """How far the recording lies from its makers' own float32 and float64 computations."""
        return self.facts["noise"]

    def class_weights(self, device: str) -> Tensor | None:
        counts = self.facts["config"].get("seg_labelweights")
        return None if not counts else torch.from_numpy(class_weights(counts)).to(device)


@lru_cache(maxsize=1)  # networks of one case follow each other
def _weights(case: Case) -> dict[str, Tensor]:
    """README, section 4: every tensor from its name."""
    weights = {}
    for name, shape, _ in case.facts["state_dict"]:
        z = draw_named(name, shape).astype(np.float32)
        kind = case.facts["weight_kind"][name]
        if kind != "kept":
            weights[name] = torch.from_numpy(_scaled(z, kind=kind, shape=shape))
    return weights


@dataclass(frozen=True, kw_only=True)
class Run:
    """What our network makes of a case, in one mode."""

    case: Case
    mode: str
    network: SparseUNet
    prepared: PreparedVoxels
    segmentation: Segmentation
    loss: LossTerms
    stages: dict[str, Tensor]
    """(V, C) features after each part, named as in the recording: stem, stage1, up1.0 ..."""

    @property
    def facts(self) -> dict[str, Any]:
        return self.case.facts[self.mode]

    @cached_property
    def gradients(self) -> dict[str, NDArray[np.float64]]:
        """In torchsparse's names and layout."""
        ours = {n: p.grad.cpu() for n, p in self.network.named_parameters() if p.grad is not None}
        return {n: g.double().numpy() for n, g in to_torchsparse(ours).items()}

    def gradient_noise(self) -> list[float]:
        """Relative distance of each recorded gradient from the recording's float64."""
        facts = self.facts["grads"].values()
        return [f["rel_l2_err_vs_fp64"] for f in facts if not f.get("zero_in_exact_arithmetic")]

    def level(self, stride: int) -> StrideLevel:
        return next(level for level in self.prepared.levels if level.stride == stride)


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path) as file:
        return dict(file)


def draw_named(name: str, shape: list[int]) -> NDArray[np.float64]:
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)


def _scaled(z: NDArray[np.float32], *, kind: str, shape: list[int]) -> NDArray[np.float32]:
    tenth = np.float32(0.1)
    if kind in ("conv", "linear"):
        fan_in = np.prod(shape[:-1] if kind == "conv" else shape[1:])
        return z * np.float32(np.sqrt(2 / fan_in))
    return {
        "bn_gamma": 1 + tenth * z,
        "bias": tenth * z,
        "rmean": tenth * z,
        "rvar": 1 + tenth * np.abs(z),
    }[kind]


def _watch_stages(network: SparseUNet) -> dict[str, Tensor]:
    parts: dict[str, nn.Module] = {"stem": network.stem}
    parts |= {f"stage{i}": network.get_submodule(f"stage{i}") for i in range(1, 5)}
    for i in range(1, 5):
        parts[f"up{i}.0"] = network.get_submodule(f"up{i}.0")
        parts[f"up{i}.1"] = network.get_submodule(f"up{i}.1.1")
    seen: dict[str, Tensor] = {}

    def watch(name: str, part: nn.Module) -> None:
        part.register_forward_hook(lambda _m, _i, output: seen.__setitem__(name, output.detach()))

    for name, part in parts.items():
        watch(name, part)
    return seen


@lru_cache(maxsize=2)  # tests of one case follow each other
def run_case(
    case: Case,
    mode: str,
    device: str,
    dtype: torch.dtype = torch.float32,
    backend: str = "auto",
) -> Run:
    network = case.network(device, backend).to(dtype).train(mode == "train")
    stages = _watch_stages(network)
    prepared = network.prepare(case.batch(device))
    if dtype == torch.float64:
        prepared = _in_float64(prepared)
    segmentation = network(prepared)
    weights = case.class_weights(device)  # rounded to float32, in the recording's float64 too
    loss = compute_loss(
        segmentation,
        prepared,
        config=LossConfig(lambda_lovasz=1.0),
        class_weights=None if weights is None else weights.to(dtype),
    )
    loss.total.backward()
    return Run(
        case=case,
        mode=mode,
        network=network,
        prepared=prepared,
        segmentation=segmentation,
        loss=loss,
        stages=stages,
    )


def _in_float64(prepared: PreparedVoxels) -> PreparedVoxels:
    """The same batch; a voxel's share of its points and the eight weights are rounded no more."""
    prepared = replace(prepared, features=prepared.features.double())
    if not isinstance(prepared, PreparedPointVoxels):
        return prepared
    counts = [points_per_voxel(cells).double().clamp(min=1) for cells in prepared.cells]
    shares = zip(prepared.cells, counts, strict=True)
    fine, middle, coarse = (replace(cells, share=1 / count[:, None]) for cells, count in shares)
    return replace(prepared, cells=(fine, middle, coarse))


def points_per_voxel(cells: Cells) -> Tensor:
    """(V,) int64."""
    return torch.bincount(cells.row, minlength=len(cells.share) + 1)[: len(cells.share)]


def as_array(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().cpu().numpy()


def rms(values: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
