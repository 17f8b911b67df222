"""The interface of networks: prepare a batch on its device, then compute; typed records between."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from pass2d.common.errors import ConfigError, DataError, ShapeError
from pass2d.common.plain import from_plain
from pass2d.common.thinning import ThinningConfig
from pass2d.models.backends.choice import choose_backend
from pass2d.models.backends.interface import Backend
from pass2d.models.inputs import Grid, PointBatch, TensorRecord
from pass2d.models.norm import count_batches

C = TypeVar("C", bound="NetworkConfig")

NEVER = -1e4
"""Logit of the ignored class in networks that do not predict it: its softmax is 0."""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Base of a network's frozen settings: its shape, apart from grid and classes."""

    @classmethod
    def from_settings(cls: type[C], settings: Mapping[str, object]) -> C:
        """Build from plain values (a recipe, a checkpoint's card).

        Raises:
            ConfigError: A key is unknown or a value cannot work.
        """
        return from_plain(cls, settings, where="network.settings")

    def settings(self) -> dict[str, object]:
        """Plain values from which `from_settings` builds the same; for recipes and cards."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def check_points(points: Tensor, *, channels: int) -> None:
    """Refuse points whose shape the network does not accept.

    Raises:
        ShapeError: Not (N, channels).
    """
    if points.ndim != 2 or points.shape[1] != channels:
        expected = f"(N, {channels}): x, y, z, signal{', time' if channels == 5 else ''}"
        raise ShapeError("points", expected=expected, got=tuple(points.shape))


def check_labels(labels: Tensor | None, *, n_classes: int) -> None:
    """Refuse (N,) labels that are not training ids. Waits for the device.

    Raises:
        ShapeError: A label below 0, or of a class that the network does not have.
    """
    if labels is None or not len(labels):
        return
    low, high = torch.stack(torch.aminmax(labels)).tolist()
    if low < 0 or high >= n_classes:
        expected = f"training ids 0..{n_classes - 1}"
        raise ShapeError("labels", expected=expected, got=f"{low}..{high}")


def check_scans(sizes: Sequence[int], *, where: str = "") -> None:
    """Refuse to train on a scan without points that the network uses.

    Raises:
        DataError: There is one, or no scan at all.
    """
    if 0 in sizes or not sizes:
        raise DataError(
            f"scan {sizes.index(0) if sizes else 0} of the batch has no point{where}; training "
            "needs at least one per scan. Leave such scans out."
        )


def with_ignored_class(logits: Tensor) -> Tensor:
    """(R, C) logits from the (R, C - 1) of a network that does not predict class 0."""
    # `shape`, not `len`: export would take it for a constant.
    return torch.cat([logits.new_full((logits.shape[0], 1), NEVER), logits], 1)


@dataclass(frozen=True, kw_only=True)
class Targets(TensorRecord):
    """Labels for rows of logits: the points (or voxels) that share row and label count as one."""

    label: Tensor
    """(K,) int64 training ids; 0 is ignored."""
    row: Tensor | None = None
    """(K,) int64 row of `Segmentation.row_logits`; None: the k-th label belongs to row k."""
    count: Tensor | None = None
    """(K,) float32, how many points the entry stands for; None: one each."""


@dataclass(frozen=True, kw_only=True)
class Prepared(TensorRecord):
    """A batch after `Network.prepare`, on the device. Networks add their own fields."""

    row_of_point: Tensor
    """(N,) int64: the row of logits of each input point."""
    targets: Targets | None
    """The targets of the main loss; None without labels."""


@dataclass(frozen=True, kw_only=True)
class ScaleLogits(TensorRecord):
    """What distillation compares at one block of 2DPASS; training only."""

    voxel_logits: Tensor
    """(V, C) prediction of the 3D features, per voxel of the block."""
    fused_logits: Tensor
    """(M, C) prediction of the fused features, per visible point."""
    voxel_logits_seen: Tensor
    """(M, C) `voxel_logits` at the visible points."""


@dataclass(frozen=True, kw_only=True)
class Segmentation(TensorRecord):
    """A network's output. Points that the network cannot distinguish share a row."""

    row_logits: Tensor
    """(R, C) distinct predictions."""
    row_of_point: Tensor
    """(N,) int64 row of each input point."""
    blocks: tuple[ScaleLogits, ...] = ()
    """One per block, when trained with images."""
    image_logits: Tensor | None = None
    """(M, C) prediction of all fused features together, when trained with images."""

    @property
    def logits(self) -> Tensor:
        """(N, C): one row per input point. Computed at each access."""
        return self.row_logits.index_select(0, self.row_of_point)


@dataclass(frozen=True, kw_only=True)
class ExportForm:
    """A network as a graph of plain operators for one scan, for runtimes other than torch."""

    graph: nn.Module
    """In eval mode on the CPU: takes the inputs in their order, returns (K, C) logits."""
    inputs: Mapping[str, Tensor]
    """Example inputs by name."""
    axes: Mapping[str, str]
    """Input to the name of its first axis, whose length varies; equal names are equal lengths."""
    preprocessing: object
    """The preprocessing from a scan to the inputs: a frozen dataclass of plain values with its
    ``kind``."""


class Network(nn.Module, abc.ABC):
    """Base of all networks. Host synchronisation belongs in `prepare`, never in `forward`.

    A subclass sets the class variables, keeps the constructor's signature and gets one line in
    `pass2d_models.registry.MODELS`.
    """

    kind: ClassVar[str]
    """Name in `MODELS` and in checkpoints."""
    config_type: ClassVar[type[NetworkConfig]]
    is_sparse: ClassVar[bool] = True
    """Whether it has sparse convolutions, for which a backend is chosen."""
    training_only: ClassVar[tuple[str, ...]] = ()
    """Prefixes of the state that inference does not need."""

    def __init__(self, config: NetworkConfig, *, grid: Grid, n_classes: int) -> None:
        super().__init__()
        self.config = config
        self.grid = grid
        self.n_classes = n_classes
        self.backend = "auto"
        """The backend for which `prepare` builds tables, see `choose_backend`."""
        self.register_forward_pre_hook(lambda network, _: count_batches(network))

    def backend_on(self, device: torch.device) -> Backend:
        """The backend that computes on a device.

        Raises:
            ConfigError: It does not work there.
        """
        return choose_backend(self.backend, device).backend

    @property
    def needs_images(self) -> bool:
        """Whether training wants pictures in the batch; inference never does."""
        return False

    @property
    def scales(self) -> tuple[int, ...]:
        """Voxel scales of `PointBatch.voxels` that `prepare` can use; () if it makes its own."""
        return ()

    @property
    def thinning(self) -> ThinningConfig | None:
        """The settings of a `PointBatch.thinned` that `prepare` can use; None if it uses none."""
        return None

    @property
    def thins_at_random(self) -> bool:
        """Whether, in training, a random point of each cell is kept instead of the first."""
        return True

    @property
    def uses_volume(self) -> bool:
        """Whether points outside the grid's volume are removed before."""
        return True

    @property
    def point_channels(self) -> int:
        """Columns of `PointBatch.points`: 4, or 5 with the time of added sweeps."""
        return 4

    @abc.abstractmethod
    def prepare(self, batch: PointBatch) -> Prepared:
        """Voxelise a batch on its device: everything that depends on the points alone.

        Raises:
            ShapeError: The batch does not have the form that `PointBatch` states.
            DataError: An empty scan, or no pictures where they are needed, in training mode.
        """

    @abc.abstractmethod
    def forward(self, prepared: Prepared) -> Segmentation:
        """Logits for every point, and in training what the losses need."""

    def export_form(self) -> ExportForm:
        """The network for runtimes other than torch; it is set to eval mode.

        Raises:
            ConfigError: It cannot be exported, which is the default.
        """
        why = (
            "its sparse convolutions have no ONNX operator. Run the checkpoint itself (`predict`; "
            "`backend=native` needs nothing but torch), or train a network without them: vavit"
            if self.is_sparse
            else "it does not support export"
        )
        raise ConfigError(f"{self.kind} cannot be exported: {why}")

    def inference_state(self) -> dict[str, Tensor]:
        """The tensors that inference needs, by name: the state without the training-only parts."""
        return {k: v for k, v in self.state_dict().items() if not k.startswith(self.training_only)}

    def n_parameters(self, *, inference_only: bool) -> int:
        """Number of parameters, in total or for inference (as in published counts)."""
        return sum(
            p.numel()
            for name, p in self.named_parameters()
            if not (inference_only and name.startswith(self.training_only))
        )
