"""A checkpoint as a function from points to labels and confidences."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeGuard, get_args, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pass2d.cache.clouds.likeness import differences
from pass2d.cache.clouds.nowhere import plausible_points
from pass2d.cache.clouds.volume import inside_volume
from pass2d.cache.schema import ScanRecord
from pass2d.common.errors import ConfigError, ShapeError
from pass2d.points.columns import is_transposed
from pass2d.train.checkpoints.card import Card
from pass2d.train.checkpoints.onnx_file import is_onnx
from pass2d.train.inference.exported import ExportedNetwork, ExportedRun
from pass2d.train.inference.input_check import expectation
from pass2d.train.inference.labelling import Labelled, PointLabels, S, T, label_in_packs
from pass2d.train.inference.passes import OutsidePolicy, PassSize, pass_size
from pass2d.train.inference.scans import ScanInput, is_on_cpu, scan_input
from pass2d.train.inference.votes import SINGLE_PASS, VotePlan, parse_votes
from pass2d.train.stacks.build import SharedVoxels, past_record, point_rows, shared_voxels
from pass2d.train.stacks.choose import PastScan

if TYPE_CHECKING:
    import torch

    from pass2d.models.network import Network
    from pass2d.train.checkpoints.trained import TrainedNetwork

LARGEST_PASS = 500_000
"""Points of a scan in one pass; larger scans are divided (see ``PassSize``) to limit memory."""
COMPARED_SCANS = 10
"""Number of a caller's scans that are compared with the training data."""
_SAID = frozenset({"zeros", "negative", "signal", "unit", "rotate", "recenter"})
"""Differences that a caller is warned of; heights, ranges and density vary with place and crop."""
LARGEST_BATCH = 32
"""Scans in one pass."""


class ScanLabels(NamedTuple):
    """The predictions for a scan."""

    labels: NDArray[np.uint8]
    """(N,) training ids, indices into `Segmenter.names`; 0 where there is no prediction."""
    scores: NDArray[np.float32]
    """(N,) confidence, 0..1: the softmax probability of the label, from the mean logits over the
    votes; not calibrated. A point outside the volume has that of the point whose label it took; 0
    where there is no prediction."""


@dataclass(frozen=True, kw_only=True)
class PreparedPoints:
    """The points of a scan that the network takes, and what is wrong with its values."""

    scan: ScanInput
    n_not_finite: int
    """Points without a prediction: a coordinate is NaN, infinite or beyond ``FARTHEST_M``."""
    n_bad_signal: int
    """Points whose signal is NaN or infinite; it was replaced by 0."""


@dataclass(frozen=True, kw_only=True)
class PastPoints:
    """An earlier scan that joins one, for networks that were trained on several together."""

    points: NDArray[np.float32]
    """(N, 4 or more) x, y, z in metres in its own lidar frame, signal."""
    current_from_past: NDArray[np.float64]
    """(3, 4)."""
    lag: int
    """How many scans ago."""
    seconds: float = float("nan")
    """How long ago; NaN where that is not known."""
    classes: NDArray[np.uint8] | None = None
    """(N,) training ids without motion, where points enter by their class."""


class Segmenter:
    """Labels scans with a trained network.

    Example::

        segmenter = Segmenter.load("best.safetensors")
        labels, scores = segmenter(points)  # (N, 4): x, y, z in metres, signal
        print([segmenter.names[i] for i in labels[:5]])
    """

    def __init__(
        self,
        network: Network | ExportedNetwork,
        card: Card,
        *,
        votes: VotePlan | int | str = SINGLE_PASS,
        outside: OutsidePolicy = "nearest",
        batch_size: int | None = None,
    ) -> None:
        self.network = network if isinstance(network, ExportedNetwork) else network.eval()
        self.card = card
        self.votes = votes if isinstance(votes, VotePlan) else parse_votes(str(votes))
        if outside not in get_args(OutsidePolicy):
            raise ConfigError(f"outside must be nearest or ignore, got {outside!r}")
        self.outside = outside
        self._finds_nearest = isinstance(network, ExportedNetwork) or is_on_cpu(network)
        self.pass_size = _pass_size(network, batch_size)
        """The largest forward pass."""
        self._raw_ids = np.array(card.info.labels.training_to_raw, np.uint32)
        self._expected = expectation(card)
        self._warned: set[str] = set()
        self._compared = 0

    @classmethod
    def load(
        cls,
        path: str | Path | TrainedNetwork,
        *,
        device: torch.device | str | None = None,
        votes: VotePlan | int | str = SINGLE_PASS,
        outside: OutsidePolicy = "nearest",
        batch_size: int | None = None,
        backend: str = "auto",
    ) -> Self:
        """Load a checkpoint, which contains everything that is needed.

        Args:
            path: An inference export or a training state, or one that is loaded already; or an
                exported network (.onnx), which onnxruntime runs on the CPU without importing torch.
            device: Defaults to the GPU if there is one. A GPU becomes this thread's current one.
            votes: Test-time augmentation: how many votes, "lattice", or a plan, see `train.tta`.
            outside: Whether points outside the volume take the nearest predicted point's label
                ("nearest") or stay without ("ignore").
            batch_size: Scans per pass through the network; by default what suits the device.
            backend: Of the sparse convolutions: "native" (torch alone), "spconv" or "triton"; by
                default what suits the device.

        Raises:
            CheckpointError: It cannot be read.
            ConfigError: No such device, backend, votes or ``outside``, or a batch size that is not
                1 to ``LARGEST_BATCH``.
        """
        if is_onnx(path):
            assert isinstance(path, (str, Path))
            if str(device or "auto") not in ("auto", "cpu") or backend != "auto":
                raise ConfigError(
                    f"{path}: an exported network runs on the CPU and has no sparse convolutions: "
                    f"`device` must be cpu and `backend` auto, got {device} and {backend}"
                )
            exported = ExportedNetwork.load(Path(path))
            return cls(exported, exported.card, votes=votes, outside=outside, batch_size=batch_size)
        from pass2d.train.checkpoints.trained import trained_network

        trained = trained_network(path, device, backend=backend)
        return cls(
            trained.network, trained.card, votes=votes, outside=outside, batch_size=batch_size
        )

    @property
    def names(self) -> tuple[str, ...]:
        """(C,) of the classes; [0] is the ignored one."""
        return self.card.info.labels.names

    @overload
    def __call__(
        self, points: list[NDArray[Any]] | tuple[NDArray[Any], ...]
    ) -> list[ScanLabels]: ...

    @overload
    def __call__(self, points: ArrayLike) -> ScanLabels: ...

    def __call__(
        self, points: ArrayLike | list[NDArray[Any]] | tuple[NDArray[Any], ...]
    ) -> ScanLabels | list[ScanLabels]:
        """Label a scan, or several.

        Args:
            points: (N, 4 or more) x, y, z in metres in the lidar frame and the signal, in the scale
                of the training data, of any real type; further columns are ignored. N may be 0. (N,
                3): the signal is taken as 0, with a warning. Or a list of such arrays; a tensor may
                be on any device.

        Returns:
            Labels (training ids) and confidences; a list of them for a list of scans. ``raw_ids``
            converts labels to the data set's raw ids.

        Warns:
            UserWarning: Once each: the signal or the unit seems to differ in scale from the
                training data; no point of a scan lies in the network's volume.

        Raises:
            ShapeError: Not such an array; for a list, its index is named.
        """
        if _are_scans(points):
            # All are checked before the first is labelled, so that errors come at once.
            scans = [
                self._prepared(scan, where=f"points[{place}]", name=str(place))
                for place, scan in enumerate(points)
            ]
        else:
            scans = [self._prepared(points, where="points", name="")]
        found = self.label(scans, _as_it_is, threads=0)
        labelled = [scan_labels(one.passes[0]) for one in found]
        return labelled if _are_scans(points) else labelled[0]

    def raw_ids(self, labels: NDArray[np.uint8]) -> NDArray[np.uint32]:
        """(N,) uint32 raw ids, as in the data set's files, of (N,) training ids."""
        return self._raw_ids[labels]

    def prepare(
        self, points: ArrayLike, *, name: str = "", past: Sequence[PastPoints] = ()
    ) -> PreparedPoints:
        """Select the points that the network takes; uses no GPU, so threads can do it ahead.

        Args:
            points: See ``__call__``.
            name: Seeds the random votes, so that a scan's labels do not depend on the other scans.
            past: The scans before it, the latest first, for networks that were trained on several
                together (`SequenceSegmenter` and `predict` find them).

        Raises:
            ShapeError: Not (N, 3 or more).
            ConfigError: The network needs something about past scans that is not known.
        """
        prepared = self._cut(_four_columns(points, name="points"), name)
        if not past:
            return prepared
        shared = shared_voxels(prepared.scan.points[:, :3].T, self.card.stack)
        rows = [self._past_rows(one, shared) for one in past]
        joined = np.concatenate([prepared.scan.points, *rows])
        return replace(prepared, scan=replace(prepared.scan, points=joined))

    def _past_rows(self, past: PastPoints, shared: SharedVoxels | None) -> NDArray[np.float32]:
        """(K, channels) the points of a past scan that the network sees."""
        stack = self.card.stack
        if stack.time == "seconds" and not np.isfinite(past.seconds):
            raise ConfigError("the network was trained with seconds: the times of scans are needed")
        if stack.points == "steps" and past.classes is None:
            raise ConfigError(
                "the network was trained on past points chosen by their class: label a stream "
                "(`SequenceSegmenter`) or a cache, with `stack.predictions` of an earlier run"
            )
        array = _four_columns(past.points, name="past points")
        rows = np.flatnonzero(plausible_points(array[:, :3].T))
        record = ScanRecord(
            scan_id="",
            n_raw=len(rows),
            xyz=np.ascontiguousarray(array[rows, :3].T),
            signal=np.nan_to_num(array[rows, 3], posinf=0.0, neginf=0.0),
            raw_index=np.arange(len(rows), dtype=np.int32),
            outside_xyz=np.empty((3, 0), np.float32),
            outside_signal=np.empty(0, np.float32),
        )
        scan = PastScan(
            position=-1,
            lag=past.lag,
            seconds=past.seconds,
            current_from_past=past.current_from_past,
        )
        return point_rows(
            past_record(
                record,
                scan,
                config=stack,
                shared=shared,
                classes=None if past.classes is None else past.classes[rows],
                volume=self.card.info.grid if self.network.uses_volume else None,
            )
        )

    def _prepared(self, points: ArrayLike, *, where: str, name: str) -> PreparedPoints:
        """Prepare a caller's scan, and warn if it differs from the training data."""
        array = _four_columns(points, name=where)
        prepared = self._cut(array, name)
        if len(array) and not len(prepared.scan.rows):
            self._warn(
                "volume",
                f"{where}: no point lies in the network's volume: all are labelled 0. Metres in "
                "the lidar's frame are expected",
            )
        if self._compared < COMPARED_SCANS and len(array):
            self._compared += 1
            exact = array[:, :4].T.astype(np.float64)
            for found in differences(exact, self._expected, has_signal=bool(array[:, 3].any())):
                if found.kind in _SAID:
                    self._warn(found.kind, f"{where}: {found.what}: {found.remedy}")
        return prepared

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(message, stacklevel=4)

    def _cut(self, array: NDArray[np.float32], name: str) -> PreparedPoints:
        xyz = array[:, :3].T
        is_known = is_seen = plausible_points(xyz)
        if self.network.uses_volume:
            is_seen = inside_volume(xyz, grid=self.card.info.grid)
        # A network that knows added sweeps is given a scan alone: nothing was measured before it.
        known = np.pad(array[:, :4], ((0, 0), (0, self.network.point_channels - 4)))
        is_bad = is_seen & ~np.isfinite(array[:, 3])
        known[is_bad, 3] = 0
        return PreparedPoints(
            scan=scan_input(
                known,
                name=name,
                is_seen=is_seen,
                is_plausible=is_known,
                outside=self.outside,
                finds_nearest=self._finds_nearest,
            ),
            n_not_finite=len(array) - int(np.count_nonzero(is_known)),
            n_bad_signal=int(np.count_nonzero(is_bad)),
        )

    def label(
        self,
        items: Iterable[T],
        load: Callable[[T], S],
        *,
        keep_going: bool = False,
        threads: int = 2,
    ) -> Generator[Labelled[S], None, None]:
        """Label many scans: see ``label_scans``, for the scans of ``prepare``."""
        if isinstance(self.network, ExportedNetwork):
            run = ExportedRun(
                network=self.network, info=self.card.info, plan=self.votes, size=self.pass_size
            )
            return label_in_packs(run, items, load, keep_going=keep_going, threads=threads)
        from pass2d.train.inference.labels import label_scans

        return label_scans(
            self.network,
            items,
            load,
            info=self.card.info,
            plans=(self.votes,),
            size=self.pass_size,
            with_scores=True,
            keep_going=keep_going,
            threads=threads,
        )


def scan_labels(answer: PointLabels) -> ScanLabels:
    """Predictions as arrays."""
    assert answer.scores is not None
    return ScanLabels(labels=_as_numpy(answer.labels), scores=_as_numpy(answer.scores))


def _are_scans(points: object) -> TypeGuard[list[ArrayLike] | tuple[ArrayLike, ...]]:
    """Whether this is a list of scans, not one scan as a list of rows."""
    if not isinstance(points, (list, tuple)):
        return False
    return not points or any(_n_axes(scan) >= 2 for scan in points)


def _n_axes(scan: object) -> int:
    try:
        return np.ndim(scan)  # type: ignore[arg-type]  # of anything; also of tensors
    except (ValueError, TypeError):  # rows of different lengths
        return 2


def _as_numpy(points: object) -> NDArray[Any]:
    """Any real numbers as an array.

    Raises:
        ValueError, TypeError, RuntimeError: They are none.
    """
    torch = sys.modules.get("torch")  # who has a tensor has loaded it
    if torch is None or not isinstance(points, torch.Tensor):
        return np.asarray(points)
    tensor = points.detach().to("cpu").resolve_neg()
    if tensor.is_floating_point() and tensor.dtype != torch.float64:
        tensor = tensor.float()  # NumPy knows no bfloat16
    return tensor.numpy()


def _four_columns(points: ArrayLike, *, name: str) -> NDArray[np.float32]:
    try:
        given = _as_numpy(points)
    except (ValueError, TypeError, RuntimeError) as error:
        what = f"{type(points).__name__}: {' '.join(str(error).split())[:120]}"
        raise ShapeError(name, expected="(N, 4) real numbers", got=what) from error
    if given.dtype.kind not in "fiub":
        raise ShapeError(name, expected="(N, 4) real numbers", got=f"{str(given.dtype)[:60]}")
    with np.errstate(over="ignore", invalid="ignore"):
        array = given.astype(np.float32, copy=False)
    if is_transposed(array.shape):
        raise ShapeError(name, expected="(N, 4), a point per row", got=array.shape)
    if array.ndim != 2 or array.shape[1] < 3:
        raise ShapeError(name, expected="(N, 4): x, y, z, signal", got=array.shape)
    if array.shape[1] == 3:
        warnings.warn(
            "points are (N, 3): the signal (4th column) is taken as 0; the network was trained "
            "with one",
            stacklevel=5,
        )
        array = np.pad(array, ((0, 0), (0, 1)))
    return array


def _as_it_is(scan: PreparedPoints) -> PreparedPoints:
    return scan


def _pass_size(network: Network | ExportedNetwork, batch_size: int | None) -> PassSize:
    if isinstance(network, ExportedNetwork):
        if batch_size not in (None, 1):
            raise ConfigError(
                "an exported network takes one scan at a time: `batch_size` must be 1, got "
                f"{batch_size}"
            )
        return PassSize(points=LARGEST_PASS, scans=1, largest_scan=LARGEST_PASS)
    device = next(network.parameters()).device
    if batch_size is None:
        return replace(pass_size(device), largest_scan=LARGEST_PASS)
    if not 1 <= batch_size <= LARGEST_BATCH:
        raise ConfigError(f"`batch_size` must be 1 to {LARGEST_BATCH}, got {batch_size}")
    points = batch_size * LARGEST_PASS
    return PassSize(points=points, scans=batch_size, largest_scan=LARGEST_PASS)
