"""MinkowskiNet and SPVCNN: sizes, batches, first values, and inputs at the edge."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pass2d.common.errors import ConfigError, DataError, ShapeError
from pass2d.models.inputs import Grid, PointBatch
from pass2d.models.registry import NAMED_CONFIGS, build_network
from pass2d.models.sparse_unets.sparse_unet import PreparedVoxels, SparseUNet
from pass2d.models.sparse_unets.spvcnn import SPVCNN
from pass2d.train.optim.losses import LossConfig, compute_loss

KINDS = ("minkowskinet", "spvcnn", "minkunet34", "spunet34")
GRID = Grid(low=(-50, -50, -4), high=(50, 50, 2), shape=(1000, 1000, 60))


def small_network(kind: str, *, n_classes: int = 17, **settings: float) -> SparseUNet:
    torch.manual_seed(0)
    network = build_network(
        kind, {"width_factor": 0.25, **settings}, grid=GRID, n_classes=n_classes
    )
    assert isinstance(network, SparseUNet)
    return network


def scan(seed: int, count: int) -> torch.Tensor:
    draw = np.random.default_rng(seed)
    points = draw.normal(0, (2, 2, 0.4, 0.2), (count, 4))
    return torch.from_numpy(points.astype(np.float32))


def batch_of(*scans: torch.Tensor, labels: torch.Tensor | None = None) -> PointBatch:
    offsets = torch.tensor([0, *np.cumsum([len(points) for points in scans]).tolist()])
    return PointBatch(points=torch.cat(scans), offsets=offsets, labels=labels)


@pytest.mark.parametrize(("name", "millions"), [("minkowskinet", 21.7), ("spvcnn", 21.8)])
def test_trained_values_are_as_many_as_published(name: str, millions: float) -> None:
    named = NAMED_CONFIGS[name]
    for n_classes in (20, 17):
        network = build_network(named.kind, named.settings, grid=GRID, n_classes=n_classes)
        assert round(network.n_parameters(inference_only=True) / 1e6, 1) == millions
        assert network.n_parameters(inference_only=False) == network.n_parameters(
            inference_only=True
        )


def test_spunet34_has_the_layers_of_its_description() -> None:
    network = build_network("spunet34", {}, grid=GRID, n_classes=20, device="cpu")
    widths = [32, 32, 64, 128, 256, 256, 128, 96, 96]

    def residual(n_in: int, n_out: int) -> int:
        shortcut = n_in * n_out + 2 * n_out if n_in != n_out else 0
        return 27 * n_in * n_out + 27 * n_out * n_out + 4 * n_out + shortcut

    total = 5**3 * 4 * 32 + 2 * 32  # one convolution of size 5
    for n_in, n_out, blocks in zip(widths, widths[1:5], (2, 3, 4, 6), strict=False):
        # The convolution down already has the stage's width, so no block has a shortcut layer.
        total += 8 * n_in * n_out + 2 * n_out + blocks * residual(n_out, n_out)
    for n_in, skip, n_out in zip(widths[4:], widths[3::-1], widths[5:], strict=False):
        total += 8 * n_in * n_out + 2 * n_out
        total += residual(n_out + skip, n_out) + residual(n_out, n_out)
    total += 96 * 19 + 19
    assert network.n_parameters(inference_only=False) == total == 39_149_747


def test_spunet34_computes_the_same_on_two_backends() -> None:
    pytest.importorskip("spconv")
    settings = {"width_factor": 0.25}
    batch = batch_of(scan(0, 300), scan(1, 200), labels=torch.arange(500) % 17)
    answers = []
    for backend in ("native", "spconv"):
        torch.manual_seed(1)
        network = build_network(
            "spunet34", settings, grid=GRID, n_classes=17, backend=backend
        ).train()
        prepared = network.prepare(batch)
        answer = network(prepared)
        compute_loss(answer, prepared, config=LossConfig()).total.backward()
        first = next(network.parameters())
        assert first.shape == (8, 5, 5, 5, 4)
        assert first.grad is not None
        answers.append((answer.row_logits.detach(), first.grad))
    for native, spconv in zip(*answers, strict=True):
        torch.testing.assert_close(native, spconv, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_gives_what_its_scans_give_alone(kind: str) -> None:
    network = small_network(kind).eval()
    scans = [scan(0, 500), scan(1, 300) + 1000, scan(2, 1)]
    with torch.no_grad():
        together = network(network.prepare(batch_of(*scans))).logits
        alone = [network(network.prepare(batch_of(points))).logits for points in scans]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_scan_too_wide_for_32_bits_gives_the_numbers_of_its_parts(kind: str) -> None:
    # Parts further apart than the network sees do not know of each other.
    network = small_network(kind).eval()
    here, there = scan(0, 300), scan(1, 300)
    there[:, 0] += 9000 * 0.05 * 16
    there[:, 1:3] += 4096 * 0.05 * 16
    corner = scan(2, 1)
    corner[:, :3] = there[:, :3].min(0).values  # the second part's own smallest x, y, z
    there = torch.cat([there, corner])
    with torch.no_grad():
        together = network.prepare(batch_of(torch.cat([here, there])))
        coords = together.levels[0].coords[:, 1:].amax(0).double() + 1
        assert float(coords.prod()) > 2**32
        lowest = torch.cat([here, there])[:, :3].min(0).values
        assert lowest.tolist() == here[:, :3].min(0).values.tolist()
        logits = network(together).logits
        expected = network(network.prepare(batch_of(here))).logits
    torch.testing.assert_close(logits[: len(here)], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_points_of_a_voxel_share_logits_and_the_first_ones_label(kind: str) -> None:
    points = torch.tensor([[1.01, 0, 0, 0.5], [2, 0, 0, 0.1], [0.99, 0, 0, 0.9], [3, 0, 0, 0]])
    labels = torch.tensor([4, 5, 6, 0])
    network = small_network(kind).eval()
    prepared = network.prepare(batch_of(points, labels=labels))
    assert isinstance(prepared, PreparedVoxels)
    assert prepared.features.tolist() == points[[0, 1, 3]].tolist()
    assert prepared.targets is not None
    assert prepared.targets.label.tolist() == [4, 5, 0]
    segmentation = network(prepared)
    assert segmentation.row_logits.shape == (3, 17)
    assert segmentation.logits[0].tolist() == segmentation.logits[2].tolist()


@pytest.mark.parametrize("kind", KINDS[:3])
def test_first_values_fill_the_original_librarys_range(kind: str) -> None:
    network = build_network(kind, {}, grid=GRID, n_classes=20)
    bounds = {
        "stem.3.weight": (32 * 27) ** -0.5,
        "stage3.0.net.0.weight": (64 * 8) ** -0.5,
        "up2.0.net.0.weight": (128 * 8) ** -0.5,  # a transposed one counts its outputs
        "stage4.1.downsample.0.weight": 128**-0.5,
    }
    for name, bound in bounds.items():
        weight = network.get_parameter(name)
        assert weight.abs().max() <= bound
        assert weight.abs().max() > 0.99 * bound
        assert float(weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.03)


def test_dropout_acts_in_training_alone() -> None:
    network = small_network("spvcnn", dropout=0.5)
    assert isinstance(network, SPVCNN)
    prepared = network.prepare(batch_of(scan(0, 400)))
    first, second = network(prepared).row_logits, network(prepared).row_logits
    assert not torch.equal(first, second)
    network.eval()
    assert torch.equal(network(prepared).row_logits, network(prepared).row_logits)


def test_cells_that_float32_merges_are_averaged() -> None:
    # At 0.03 m some c come back from (c * voxel) / voxel one below; their rows share a voxel.
    side = np.float32(0.03)
    cells = np.arange(4096, dtype=np.float32)
    n_distinct = len(np.unique(np.floor(cells * side / side)))
    assert n_distinct < 4096
    points = torch.zeros(4096, 4)
    points[:, 0] = torch.from_numpy(cells) * 0.03
    network = small_network("spvcnn", voxel_m=0.03).eval()
    prepared = network.prepare(batch_of(points))
    assert isinstance(prepared, PreparedVoxels)
    assert len(prepared.features) == 4096
    assert len(prepared.levels[0].coords) == n_distinct
    assert network(prepared).logits.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_points_are_answered(kind: str, count: int) -> None:
    network = small_network(kind).eval()
    logits = network(network.prepare(batch_of(scan(0, count)))).logits
    assert logits.shape == (count, 17)
    assert logits.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_scan_is_an_error_in_training(kind: str) -> None:
    network = small_network(kind)
    with pytest.raises(DataError, match="scan 1 of the batch has no point"):
        network.prepare(batch_of(scan(0, 5), scan(0, 0)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 200])
def test_ignored_labels_alone_give_no_loss_and_no_gradient(kind: str, count: int) -> None:
    network = small_network(kind)
    labels = torch.zeros(count, dtype=torch.int64)
    prepared = network.prepare(batch_of(scan(0, count), labels=labels))
    loss = compute_loss(network(prepared), prepared, config=LossConfig(lambda_lovasz=1.0))
    loss.total.backward()
    assert float(loss.total.detach()) == 0
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert all(not gradient.any() for gradient in gradients)


@pytest.mark.parametrize("kind", KINDS)
def test_awkward_scans_among_normal_ones(kind: str) -> None:
    """Trained: one without a label, one of a single point; answered: an empty one too."""
    network = small_network(kind)
    scans = [scan(0, 200), scan(1, 150), scan(2, 1)]
    labels = torch.arange(351) % 17
    labels[200:350] = 0
    prepared = network.prepare(batch_of(*scans, labels=labels))
    loss = compute_loss(network(prepared), prepared, config=LossConfig(lambda_lovasz=1.0))
    loss.total.backward()
    assert float(loss.total.detach()) > 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
    network.eval()
    with torch.no_grad():
        answers = [
            network(network.prepare(batch_of(*some))).logits
            for some in (scans, [scans[0], scan(0, 0), *scans[1:]])
        ]
    assert answers[0].isfinite().all()
    torch.testing.assert_close(answers[0], answers[1])


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_stays_near_float32(kind: str) -> None:
    network = small_network(kind).eval()
    prepared = network.prepare(batch_of(scan(0, 800)))
    exact = network(prepared).row_logits.detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = network(prepared).row_logits
    rough.float().sum().backward()
    error = (rough.detach().float() - exact).abs().max()
    assert float(error) < 0.02 * float(exact.abs().max())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_impossible_batches_are_refused() -> None:
    network = small_network("minkowskinet")
    with pytest.raises(ShapeError, match="x, y, z, signal"):
        network.prepare(batch_of(torch.zeros(5, 3)))
    labels = torch.full((5,), 17)
    with pytest.raises(ShapeError, match=r"training ids 0\.\.16"):
        network.prepare(batch_of(scan(0, 5), labels=labels))


@pytest.mark.parametrize(
    "settings",
    [{"width_factor": 0.0}, {"voxel_m": 0.0}, {"base_widths": [8] * 8}, {"dropout": 1.0}],
)
def test_impossible_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        build_network("spvcnn", settings, grid=GRID, n_classes=20)
