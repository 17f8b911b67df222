"""2DPASS as a whole: what must not matter, what is refused, and the edges of its input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from batch_voxels import voxelize
from thin_pictures import thin_pictures
from torch import nn
from torch.nn import functional
from torchvision.models import resnet34

from pass2d.common.errors import CheckpointError, ConfigError, DataError, ShapeError
from pass2d.models.inputs import Grid, ImageBatch, PointBatch
from pass2d.models.registry import NAMED_CONFIGS, build_network
from pass2d.models.twodpass import encoder2d
from pass2d.models.twodpass.config import TwoDPassConfig
from pass2d.models.twodpass.encoder2d import (
    Encoder2D,
    load_imagenet,
    look_up,
    ordered_max_pool,
    pixel_rows,
)
from pass2d.models.twodpass.twodpass import TwoDPass
from pass2d.train.optim.losses import LossConfig, LossTerms, compute_loss

GRID = Grid(low=(-50, -50, -4), high=(50, 50, 2), shape=(1000, 1000, 60))
N_CLASSES = 5


@pytest.fixture(autouse=True)
def _no_torchvision_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user's machine has in its cache must not change a test."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    torch.manual_seed(0)


def small_network(**settings: object) -> TwoDPass:
    with thin_pictures(blocks=(3, 4, 6, 3)):
        network = build_network("2dpass", {"hidden": 8, **settings}, grid=GRID, n_classes=N_CLASSES)
    assert isinstance(network, TwoDPass)
    for module in network.modules():  # statistics that do something
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None
            module.running_mean.normal_(0, 0.1)
    return network


def made_up_scan(seed: int, n: int = 400, *, shift: float = 0.0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    centers = rng.uniform((-30, -30, -3), (30, 30, 1), (12, 3))
    xyz = centers[rng.integers(0, 12, n)] + rng.normal(0, 0.3, (n, 3)) + [shift, 0, 0]
    return torch.from_numpy(np.column_stack([xyz, rng.random(n)]).astype(np.float32))


def made_up_batch(*scans: torch.Tensor, seen_per_scan: int = 50) -> PointBatch:
    generator = torch.Generator().manual_seed(3)
    lengths = [len(scan) for scan in scans]
    offsets = torch.tensor(np.cumsum([0, *lengths]))
    n, n_seen = int(offsets[-1]), seen_per_scan * len(scans)
    starts = offsets[:-1].repeat_interleave(seen_per_scan)
    within = torch.cat([torch.randint(length, (seen_per_scan,)) for length in lengths])
    return PointBatch(
        points=torch.cat(scans),
        offsets=offsets,
        labels=torch.randint(N_CLASSES, (n,), generator=generator),
        images=ImageBatch(
            images=torch.randn(len(scans), 3, 48, 48, generator=generator),
            image_index=torch.arange(len(scans)).repeat_interleave(seen_per_scan),
            pixel_rc=torch.stack(
                [torch.randint(48, (n_seen,)), torch.randint(48, (n_seen,))], dim=1
            ),
            point_index=starts + within,
        ),
    )


def evaluate(network: TwoDPass, batch: PointBatch) -> torch.Tensor:
    network.eval()
    with torch.no_grad():
        return network(network.prepare(batch)).logits


def train_once(network: TwoDPass, batch: PointBatch) -> LossTerms:
    network.train()
    network.zero_grad(set_to_none=False)
    prepared = network.prepare(batch)
    loss = compute_loss(network(prepared), prepared, config=LossConfig())
    loss.total.backward()
    return loss


def gradients(network: TwoDPass) -> list[torch.Tensor]:
    return [p.grad for p in network.parameters() if p.grad is not None]


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("2dpass-small", 1.9),
        ("2dpass-large", 45.6),
        ("2dpass-nuscenes-128", 11.5),
        ("2dpass-nuscenes-256", 45.6),
        ("baseline", 1.9),
    ],
)
def test_parameter_counts_of_inference_are_the_published_ones(name: str, millions: float) -> None:
    named = NAMED_CONFIGS[name]
    n_classes = 17 if "nuscenes" in name else 20
    settings = {**named.settings, "image_branch": False}
    network = build_network(named.kind, settings, grid=GRID, n_classes=n_classes)
    assert round(network.n_parameters(inference_only=True) / 1e6, 1) == millions


def test_unknown_names_are_refused_with_a_hint() -> None:
    with pytest.raises(ConfigError, match="did you mean '2dpass'"):
        build_network("2dpas", {}, grid=GRID, n_classes=20)
    with pytest.raises(ConfigError, match="did you mean 'hidden'"):
        build_network("2dpass", {"hiden": 8}, grid=GRID, n_classes=20)
    with pytest.raises(ConfigError, match="n_classes"):
        build_network("2dpass", {}, grid=GRID, n_classes=1)


@pytest.mark.parametrize(
    "settings",
    [{"hidden": 7}, {"block_scales": ()}, {"block_scales": (4, 2)}, {"block_scales": (2, 3)}],
)
def test_impossible_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        build_network("2dpass", settings, grid=GRID, n_classes=20)


def test_settings_survive_the_way_through_plain_values() -> None:
    config = TwoDPassConfig(block_scales=(2, 8, 8), hidden=6, image_residual=True)
    assert TwoDPassConfig.from_settings(config.settings()) == config
    assert config.settings()["block_scales"] == [2, 8, 8]


def test_sparse_weights_start_with_the_published_gain() -> None:
    weight = build_network("baseline", {}, grid=GRID, n_classes=20).encoder.blocks[0]
    conv = weight.voxel[0].conv1.conv.weight
    bound = np.sqrt(2) * np.sqrt(3 / (27 * 64))
    assert 0.99 * bound < conv.abs().max() <= bound


def test_scans_of_a_batch_do_not_see_each_other() -> None:
    network = small_network()
    # The same place twice, and a third scan that leaves the volume and moves the grid's origin.
    scans = [made_up_scan(1), made_up_scan(1) + torch.tensor([0.03, 0, 0, 0.1])]
    scans.append(made_up_scan(2, shift=-35.0))
    together = evaluate(network, made_up_batch(*scans))
    alone = torch.cat([evaluate(network, made_up_batch(scan)) for scan in scans])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_order_of_points_does_not_matter() -> None:
    network, scan = small_network(), made_up_scan(4)
    order = torch.randperm(len(scan))
    mixed = evaluate(network, made_up_batch(scan[order]))
    torch.testing.assert_close(mixed, evaluate(network, made_up_batch(scan))[order])


def test_points_of_the_same_voxels_get_the_same_answer_once() -> None:
    network = small_network().eval()
    batch = made_up_batch(made_up_scan(5))
    answer = network(network.prepare(batch))
    found = voxelize(batch.points, batch.offsets, grid=GRID, scales=(2, 4, 8, 16))
    tuples = torch.stack([v.inverse for v in found], dim=1)
    distinct, row = torch.unique(tuples, dim=0, return_inverse=True)
    assert len(answer.row_logits) == len(distinct) < len(batch.points)
    assert len(torch.unique(torch.stack([row, answer.row_of_point], dim=1), dim=0)) == len(distinct)


def test_known_voxels_give_the_same_answer() -> None:
    network = small_network()
    batch = made_up_batch(made_up_scan(6), made_up_scan(7))
    voxels = voxelize(batch.points, batch.offsets, grid=GRID, scales=network.scales)
    assert torch.equal(evaluate(network, replace(batch, voxels=voxels)), evaluate(network, batch))


def test_inference_state_is_all_that_the_baseline_needs() -> None:
    network, baseline = small_network(), small_network(image_branch=False)
    baseline.load_state_dict(network.inference_state())
    batch = made_up_batch(made_up_scan(8))
    expected = evaluate(network, batch)
    assert torch.equal(evaluate(baseline, replace(batch, images=None)), expected)
    assert not baseline.needs_images
    assert network.needs_images
    n_all = network.n_parameters(inference_only=False)
    assert (
        n_all
        > network.n_parameters(inference_only=True)
        == baseline.n_parameters(inference_only=False)
    )


def test_empty_scan_is_an_error_in_training_and_no_rows_in_prediction() -> None:
    network = small_network()
    empty = PointBatch(points=torch.zeros(0, 4), offsets=torch.tensor([0, 0]))
    assert evaluate(network, empty).shape == (0, N_CLASSES)
    batch = made_up_batch(made_up_scan(1), seen_per_scan=5)
    gap = replace(batch, offsets=torch.tensor([0, 400, 400]))
    with pytest.raises(DataError, match="scan 1 of the batch has no point"):
        network.train().prepare(gap)


def test_one_point_trains() -> None:
    network = small_network()
    loss = train_once(network, made_up_batch(made_up_scan(1, n=1), seen_per_scan=1))
    assert torch.isfinite(loss.total)
    assert all(torch.isfinite(g).all() for g in gradients(network))
    assert all(torch.isfinite(b).all() for b in network.buffers())


def test_all_labels_ignored_is_a_loss_of_zero_with_zero_gradient() -> None:
    network = small_network()
    batch = made_up_batch(made_up_scan(2))
    nothing = replace(batch, labels=torch.zeros_like(batch.labels))
    loss = train_once(network, nothing)
    assert loss.total == 0
    assert all((g == 0).all() for g in gradients(network))
    labels = nothing.labels.clone()
    labels[0] = 1
    assert train_once(network, replace(batch, labels=labels)).parts["xm_0"] > 0


def test_one_labelled_point_trains() -> None:
    network = small_network()
    batch = made_up_batch(made_up_scan(3))
    labels = torch.zeros_like(batch.labels)
    labels[17] = 3
    loss = train_once(network, replace(batch, labels=labels))
    assert torch.isfinite(loss.total)
    assert loss.parts["main_lovasz"] > 0
    assert all(torch.isfinite(g).all() for g in gradients(network))


def test_scan_wholly_outside_the_image_trains_the_3d_network() -> None:
    network = small_network()
    batch = made_up_batch(made_up_scan(4), seen_per_scan=0)
    loss = train_once(network, batch)
    assert torch.isfinite(loss.total)
    assert loss.parts["xm_0"] == loss.parts["fused_ce_0"] == loss.parts["image_lovasz"] == 0
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        if name.startswith("image_encoder."):
            assert (parameter.grad == 0).all(), name


def test_awkward_scans_among_normal_ones_train() -> None:
    """One is not in its picture at all, one has no label, one is a single point."""
    network = small_network()
    scans = [made_up_scan(1), made_up_scan(2), made_up_scan(3), made_up_scan(4, n=1)]
    batch = made_up_batch(*scans)
    images = batch.images
    assert images is not None
    kept = images.image_index != 1
    seen = replace(
        images,
        image_index=images.image_index[kept],
        pixel_rc=images.pixel_rc[kept],
        point_index=images.point_index[kept],
    )
    labels = batch.labels.clone()
    labels[batch.offsets[2] : batch.offsets[3]] = 0
    loss = train_once(network, replace(batch, images=seen, labels=labels))
    assert torch.isfinite(loss.total)
    assert loss.parts["fused_ce_0"] > 0
    assert all(torch.isfinite(g).all() for g in gradients(network))
    assert all(torch.isfinite(b).all() for b in network.buffers())


def test_an_empty_scan_among_normal_ones_changes_no_answer() -> None:
    network = small_network()
    batch = made_up_batch(made_up_scan(1), made_up_scan(2), seen_per_scan=0)
    gap = replace(batch, offsets=torch.tensor([0, 400, 400, 800]), images=None)
    expected = evaluate(network, replace(batch, images=None))
    assert torch.equal(evaluate(network, gap), expected)


def test_impossible_batches_are_refused() -> None:
    network = small_network().train()
    batch = made_up_batch(made_up_scan(1))
    images = batch.images
    assert images is not None
    with pytest.raises(ShapeError, match="points must be"):
        network.prepare(replace(batch, points=batch.points[:, :3]))
    with pytest.raises(ShapeError, match="multiples of 16"):
        network.prepare(replace(batch, images=replace(images, images=torch.zeros(1, 3, 32, 40))))
    with pytest.raises(ShapeError, match="images must be"):
        network.prepare(replace(batch, images=replace(images, images=torch.zeros(1, 4, 32, 48))))
    with pytest.raises(ShapeError, match=r"labels must be training ids 0..4, got 0..5"):
        network.prepare(replace(batch, labels=torch.arange(400) % 6))
    with pytest.raises(DataError, match="pictures"):
        network.prepare(replace(batch, images=None))
    network.eval().prepare(replace(batch, images=None))  # inference needs none


def test_residual_of_the_paper_is_an_option() -> None:
    plain, residual = small_network(), small_network(image_residual=True)
    residual.load_state_dict(plain.state_dict())
    batch = made_up_batch(made_up_scan(1))
    results = []
    for network in (plain, residual):
        network.train()
        with torch.no_grad():
            results.append(network(network.prepare(batch)))
    assert torch.equal(results[0].logits, results[1].logits)
    assert not torch.allclose(results[0].image_logits, results[1].image_logits)


def test_low_resolution_look_up_is_upsampling_and_look_up() -> None:
    maps = torch.randn(2, 5, 8, 12)
    rc = torch.stack([torch.randint(32, (40,)), torch.randint(48, (40,))], dim=1)
    image = torch.randint(2, (40,))
    rows = pixel_rows(image_index=image, pixel_rc=rc, image_hw=(32, 48), stride=4)
    full = nn.functional.interpolate(maps, scale_factor=4, mode="nearest")
    assert torch.equal(look_up(maps, rows), full[image, :, rc[:, 0], rc[:, 1]])


def test_imagenet_weights_come_from_a_file_or_the_cache_and_never_from_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    encoder = Encoder2D(8)
    assert load_imagenet(encoder, "") == ""
    with pytest.raises(CheckpointError, match="no such file"):
        load_imagenet(encoder, str(tmp_path / "absent.pth"))
    bad = tmp_path / "bad.pth"
    torch.save({"conv1.weight": torch.zeros(3)}, bad)
    with pytest.raises(CheckpointError, match="ResNet-34"):
        load_imagenet(encoder, str(bad))
    for content in (b"not a checkpoint", b"root:x:0:0:root:/root:/bin/bash\n", b""):
        bad.write_bytes(content)
        with pytest.raises(CheckpointError, match="ResNet-34"):
            load_imagenet(encoder, str(bad))
    state = resnet34(weights=None).state_dict()
    good = tmp_path / "torch_home" / "hub" / "checkpoints" / "resnet34-b627a593.pth"
    good.parent.mkdir(parents=True)
    torch.save(state, good)
    for name in (str(good), ""):
        fresh = Encoder2D(8)
        assert load_imagenet(fresh, name) == str(good)
        assert torch.equal(fresh.backbone.layer3[2].conv1.weight, state["layer3.2.conv1.weight"])


def test_autocast_changes_the_image_branch_only() -> None:
    network = small_network().train()
    prepared = network.prepare(made_up_batch(made_up_scan(1), made_up_scan(2)))
    with torch.no_grad():
        exact = network(prepared)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = network(prepared)
    assert torch.equal(rough.logits, exact.logits)
    assert rough.image_logits.dtype == torch.float32
    distance = (rough.image_logits - exact.image_logits).abs().max()
    assert 0 < distance < 0.05 * exact.image_logits.abs().max()


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_maxima_with_ordered_gradients_are_torchs(memory: torch.memory_format) -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 4, (2, 3, 16, 32)).float()  # many equal ones
    images = images.contiguous(memory_format=memory).requires_grad_()
    ours, theirs = ordered_max_pool(images), functional.max_pool2d(images, 3, stride=2, padding=1)
    assert torch.equal(ours, theirs)
    weight = torch.randn(ours.shape)
    (own,) = torch.autograd.grad(ours, images, weight)
    (other,) = torch.autograd.grad(theirs, images, weight)
    torch.testing.assert_close(own, other)


@pytest.mark.gpu
def test_forward_and_losses_never_wait_for_the_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    network = small_network().to("cuda").train()
    prepared = network.prepare(made_up_batch(made_up_scan(1), made_up_scan(2)).to("cuda"))
    network(prepared)  # libraries choose their kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        compute_loss(network(prepared), prepared, config=LossConfig()).total.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("height", "is_exact"), [(16, True), (32, True), (48, False)])
def test_low_pictures_are_computed_in_full_precision_on_a_cpu(height: int, is_exact: bool) -> None:
    """In bfloat16 the gradients of their smallest maps, of one or two rows, would be garbage."""
    torch.manual_seed(0)
    encoder = Encoder2D(8)
    images = torch.randn(1, 3, height, 48)
    gradients = []
    for is_half in (False, True):
        encoder.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_half):
            maps = encoder(images)
        sum(feature_map.float().square().sum() for feature_map in maps).backward()
        gradients.append(encoder.decoders[3][0].weight.grad.clone())
    assert torch.isfinite(gradients[1]).all()
    assert torch.equal(*gradients) == is_exact


def repeated(batch: PointBatch) -> PointBatch:
    """The batch with each row as often as its weight says, and its pixel with it."""
    assert batch.weights is not None
    assert batch.labels is not None
    assert batch.images is not None
    times = batch.weights.to(torch.int64)
    row = torch.arange(len(times)).repeat_interleave(times)
    start = torch.cumsum(times, 0) - times
    seen = batch.images.point_index
    place = torch.arange(len(seen)).repeat_interleave(times[seen])
    of_place = torch.cat([start[p] + torch.arange(int(times[p])) for p in seen.tolist()])
    return PointBatch(
        points=batch.points[row],
        offsets=torch.tensor([int(times[: int(end)].sum()) for end in batch.offsets]),
        labels=batch.labels[row],
        images=replace(
            batch.images,
            image_index=batch.images.image_index[place],
            pixel_rc=batch.images.pixel_rc[place],
            point_index=of_place,
        ),
    )


@pytest.mark.slow
def test_a_weight_gives_the_losses_and_gradients_of_copies() -> None:
    torch.manual_seed(0)
    network = small_network(block_scales=[2, 4, 8, 16, 16]).double().train()
    batch = made_up_batch(made_up_scan(0), made_up_scan(9))
    weights = torch.ones(800)
    weights[0], weights[400], weights[423] = 70, 41, 3  # first points, and what is mixed in
    assert batch.images is not None
    # of the first scan point 0 is seen, twice; of the second it is not
    batch.images.point_index[:2] = 0
    batch.images.point_index[50:][batch.images.point_index[50:] == 400] = 401
    batch = replace(batch, weights=weights)
    class_weights = torch.linspace(1, 3, N_CLASSES, dtype=torch.float64)
    results = []
    for version in (batch, repeated(batch)):
        network.zero_grad()
        prepared = network.prepare(version)
        loss = compute_loss(
            network(prepared), prepared, config=LossConfig(), class_weights=class_weights
        )
        loss.total.backward()
        gradients = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
        results.append((loss, gradients))
    (ours, our_gradients), (copies, their_gradients) = results
    assert ours.parts.keys() == copies.parts.keys()
    for name, part in copies.parts.items():
        torch.testing.assert_close(ours.parts[name], part, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ours.total, copies.total, rtol=1e-9, atol=0)
    assert our_gradients.keys() == their_gradients.keys()
    largest = max(float(gradient.abs().max()) for gradient in their_gradients.values())
    for name, gradient in their_gradients.items():
        torch.testing.assert_close(
            our_gradients[name], gradient, rtol=1e-6, atol=1e-8 * largest, msg=name
        )
    unweighted = network.prepare(replace(batch, weights=None))
    plain = compute_loss(
        network(unweighted), unweighted, config=LossConfig(), class_weights=class_weights
    )
    assert not torch.allclose(plain.total, copies.total, rtol=1e-5, atol=0)


def test_the_image_network_lies_in_memory_as_its_device_reads_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    last, contiguous = torch.channels_last, torch.contiguous_format
    assert encoder2d.memory_order(torch.device("cuda:1")) is last
    assert encoder2d.memory_order(torch.device("cpu")) is contiguous
    torch.manual_seed(0)
    network = encoder2d.Encoder2D(8).eval()
    wide = {name: p for name, p in network.named_parameters() if p.ndim == 4 and p.shape[-1] > 1}
    assert all(p.is_contiguous() for p in wide.values())
    images = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        before = network(images)
        monkeypatch.setattr(encoder2d, "memory_order", lambda _device: last)
        network.to("cpu")  # as a move to a GPU
        after = network(images)
    for name, parameter in network.named_parameters():
        assert name not in wide or parameter is wide[name]
        assert name not in wide or parameter.is_contiguous(memory_format=last)
    for a, b in zip(after, before, strict=True):
        assert a.is_contiguous(memory_format=last)
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
