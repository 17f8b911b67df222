"""Recorded numbers of the two torchsparse networks; `test_golden.py` collects these tests.

PASS2D_GOLDEN_TORCHSPARSE names another folder of the layout of ../shared/golden_torchsparse; every
case in it is checked. Limits are ten times the recording's own distance from float64, and at most
those of that folder's README.md, section 5. A single gradient keeps those of the README: one ReLU
that flips in float32 moves it by more than all rounding; `golden_torchsparse_float64.py`, where
none does, compares to the digit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from golden_torchsparse_cases import (
    DEVICES,
    FOLDER,
    IS_GIVEN,
    Case,
    Run,
    as_array,
    draw_named,
    load_arrays,
    points_per_voxel,
    rms,
    run_case,
)
from numpy.typing import NDArray
from torch import Tensor, nn

from pass2d.models.backends.choice import choose_backend
from pass2d.models.sparse_unets.devoxelize import Cells, Corners
from pass2d.models.sparse_unets.quantize import quantize
from pass2d.models.sparse_unets.sparse_layers import DownConv, NeighbourConv, UpConv
from pass2d.models.sparse_unets.stride_levels import build_levels
from pass2d.models.sparse_unets.torchsparse_names import from_torchsparse
from pass2d.models.voxel_keys import KeyPacking, VoxelIndex
from pass2d.train.checkpoints.published.layout import recognise

__all__ = [  # the tests and their fixtures: what a test file may collect
    "layer_cases",
    "sparse_backend",
    "sparse_case",
    "sparse_device",
    "sparse_eval",
    "sparse_run",
    "sparse_train",
    "test_sparse_eval_logits",
    "test_sparse_full_gradients",
    "test_sparse_gradients",
    "test_sparse_layer_chain_and_its_gradients",
    "test_sparse_levels_are_exact",
    "test_sparse_list_of_tensors_is_recognised",
    "test_sparse_losses",
    "test_sparse_offset_numbers",
    "test_sparse_point_to_voxel",
    "test_sparse_quantisation_case",
    "test_sparse_quantisation_is_exact",
    "test_sparse_running_statistics",
    "test_sparse_stage_features",
    "test_sparse_train_logits",
    "test_sparse_voxel_to_point",
]

ALL_CASES = Case.find_all()
SPREAD = 10
"""Ours may differ by so many times what the recording differs from float64."""
LEAST_NOISE = 2.0**-22
LOSS_PARTS = {"loss_main_ce": "main_ce", "loss_main_lovasz": "main_lovasz"}
"""Recorded name -> ours."""
NO_CASES = f"no recordings in {FOLDER}"


@pytest.fixture(scope="module", params=DEVICES)
def sparse_device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(
    scope="module",
    params=ALL_CASES
    or [pytest.param(None, marks=[] if IS_GIVEN else pytest.mark.skip(reason=NO_CASES))],
    ids=lambda case: case.name if case else "none",
)
def sparse_case(request: pytest.FixtureRequest) -> Case:
    assert request.param, NO_CASES
    return request.param


@pytest.fixture(scope="module", params=["native", "spconv"])
def sparse_backend(request: pytest.FixtureRequest) -> str:
    if request.param == "spconv":
        pytest.importorskip("spconv")
    return request.param


@pytest.fixture(scope="module", params=["eval", "train"])
def sparse_run(
    request: pytest.FixtureRequest, sparse_case: Case, sparse_device: str, sparse_backend: str
) -> Run:
    return run_case(sparse_case, request.param, sparse_device, backend=sparse_backend)


@pytest.fixture(scope="module")
def sparse_eval(sparse_case: Case, sparse_device: str, sparse_backend: str) -> Run:
    return run_case(sparse_case, "eval", sparse_device, backend=sparse_backend)


@pytest.fixture(scope="module")
def sparse_train(sparse_case: Case, sparse_device: str, sparse_backend: str) -> Run:
    return run_case(sparse_case, "train", sparse_device, backend=sparse_backend)


@pytest.fixture(scope="module")
def layer_cases() -> dict[str, NDArray[Any]]:
    path = FOLDER / "layer_cases.npz"
    if not path.is_file():
        pytest.skip(f"no layer_cases.npz in {FOLDER}")
    return load_arrays(path)


def test_sparse_quantisation_is_exact(sparse_case: Case, sparse_device: str) -> None:
    batch, inputs = sparse_case.batch(sparse_device), sparse_case.inputs
    voxel_m = sparse_case.facts["config"]["voxel_size"]
    cells = quantize(batch.points, batch.offsets, voxel_m=voxel_m)
    np.testing.assert_array_equal(as_array(cells.coords), inputs["voxel_coords"][:, [3, 0, 1, 2]])
    # The recorded rows restart at 0 in each sample, ours count through the batch.
    points_before = as_array(batch.offsets)[inputs["voxel_coords"][:, 3]]
    np.testing.assert_array_equal(as_array(cells.first), inputs["inds"] + points_before)
    samples = np.arange(len(batch.offsets) - 1)
    cells_before = np.searchsorted(inputs["voxel_coords"][:, 3], samples)[inputs["point_batch"]]
    np.testing.assert_array_equal(as_array(cells.inverse), inputs["inverse_map"] + cells_before)


def test_sparse_levels_are_exact(sparse_eval: Run) -> None:
    assert sparse_eval.prepared.targets is not None
    labels = sparse_eval.case.inputs["voxel_labels"]
    np.testing.assert_array_equal(as_array(sparse_eval.prepared.targets.label), labels)
    for level in sparse_eval.prepared.levels:
        count = sparse_eval.case.facts["voxels_per_stride"][str(level.stride)]
        assert len(level.coords) == count
        if level.stride > 1:
            recorded = sparse_eval.case.result[f"coords_s{level.stride}"].astype(np.int64)
            ours = as_array(level.coords[level.index.rows]).astype(np.int64)
            ours[:, 1:] *= level.stride
            order = np.lexsort(recorded[:, [2, 1, 0, 3]].T)
            np.testing.assert_array_equal(ours, recorded[order][:, [3, 0, 1, 2]])


def test_sparse_list_of_tensors_is_recognised(sparse_case: Case) -> None:
    shapes = {name: tuple(shape) for name, shape, _ in sparse_case.facts["state_dict"]}
    layout = recognise(shapes)
    assert layout is not None
    assert layout.architecture == sparse_case.kind
    assert layout.n_classes == sparse_case.facts["config"]["num_class"]
    for name in layout.set_aside:
        # Networks that train without class weights have none.
        assert shapes.pop(name, None) in (None, (layout.n_classes,))
    assert layout.expected(sparse_case.network("cpu")) == shapes


def test_sparse_eval_logits(sparse_eval: Run) -> None:
    result = sparse_eval.case.result
    recorded = result["voxel_logits"]
    ours = as_array(sparse_eval.segmentation.row_logits)
    difference, noise = ours - recorded, sparse_eval.case.noise
    for kind, distance, most in (
        ("rms", rms(difference), 2e-6),
        ("max", float(np.abs(difference).max()), 1e-4),
    ):
        seen = max(noise[f"eval_logits_{kind}_diff_vs_{other}"] for other in ("fp32", "fp64"))
        assert distance <= min(most, SPREAD * seen), kind
    peak = np.abs(recorded).max()
    assert peak == pytest.approx(sparse_eval.facts["logits_absmax"], rel=1e-7)
    assert rms(recorded + difference) == pytest.approx(sparse_eval.facts["logits_rms"], rel=1e-5)
    points = as_array(sparse_eval.segmentation.logits)
    np.testing.assert_array_equal(points.argmax(1), result["point_argmax"])
    facts = sparse_eval.case.facts["point_logits"]
    assert len(points) == facts["rows"]
    np.testing.assert_allclose(
        points.sum(0, dtype=np.float64), facts["sum"], atol=2e-6 * len(points)
    )


def test_sparse_stage_features(sparse_eval: Run) -> None:
    result = sparse_eval.case.result
    for name, facts in sparse_eval.facts["stages"].items():
        key = f"eval_{name.replace('.', '_')}"
        level = sparse_eval.level(facts["stride"])
        features = as_array(sparse_eval.stages[name])
        assert features.shape == (facts["voxels"], facts["channels"])
        assert rms(features) == pytest.approx(facts["rms"], rel=1e-5)
        place = torch.from_numpy(result[f"{key}_C"][:, [3, 0, 1, 2]]).to(level.coords.device)
        place[:, 1:] //= facts["stride"]
        rows = as_array(level.index.find(place))
        np.testing.assert_allclose(features[rows], result[f"{key}_F"], atol=1e-4 * facts["rms"])
        x, y, z = as_array(level.coords)[:, 1:].T * facts["stride"]
        wave = np.cos(0.01 * x + 0.02 * y + 0.03 * z)
        room = 2e-6 * facts["rms"] * len(features)
        sums = features.sum(0, dtype=np.float64)
        np.testing.assert_allclose(sums, result[f"{key}_sum"], atol=room)
        np.testing.assert_allclose(wave @ features, result[f"{key}_wsum"], atol=room)


def test_sparse_losses(sparse_run: Run) -> None:
    exact = sparse_run.case.noise[f"{sparse_run.mode}_fp64"]
    noise = max(abs(sparse_run.facts[name] - value) for name, value in exact.items())
    limit = min(2e-5, SPREAD * max(noise, LEAST_NOISE))
    total = float(sparse_run.loss.total.detach())
    assert total == pytest.approx(sparse_run.facts["loss"], abs=limit)
    for theirs, ours in LOSS_PARTS.items():
        value = float(sparse_run.loss.parts[ours])
        assert value == pytest.approx(sparse_run.facts[theirs], abs=limit)


def test_sparse_gradients(sparse_run: Run) -> None:
    norm_limit, dot_limit = {"eval": (5e-3, 3e-2), "train": (1e-2, 5e-2)}[sparse_run.mode]
    recorded = sparse_run.facts["grads"]
    assert set(sparse_run.gradients) == set(recorded)
    dot_errors = []
    for name, facts in recorded.items():
        gradient = sparse_run.gradients[name]
        if facts.get("zero_in_exact_arithmetic"):
            assert np.linalg.norm(gradient) < 1e-5, name
            continue
        assert np.linalg.norm(gradient) == pytest.approx(facts["norm"], rel=norm_limit), name
        assert np.abs(gradient).max() == pytest.approx(facts["absmax"], rel=dot_limit), name
        dot = np.vdot(gradient, draw_named(f"{name}#dot", list(gradient.shape)))
        dot_errors.append(abs(dot - facts["dot"]) / facts["norm"])
        assert dot_errors[-1] < dot_limit, name
    assert np.median(dot_errors) <= SPREAD * np.median(sparse_run.gradient_noise())


def test_sparse_full_gradients(sparse_run: Run) -> None:
    limit = {"eval": 5e-3, "train": 1e-2}[sparse_run.mode]
    prefix = f"{sparse_run.mode}_grad_"
    result = sparse_run.case.result
    stored = {key: value for key, value in result.items() if key.startswith(prefix)}
    assert stored
    for key, recorded in stored.items():
        is_sharp = key == "eval_grad_up4.0.net.0.kernel"
        error = np.linalg.norm(sparse_run.gradients[key.removeprefix(prefix)] - recorded)
        assert error < (1e-5 if is_sharp else limit) * np.linalg.norm(recorded), key


def test_sparse_train_logits(sparse_train: Run) -> None:
    result = sparse_train.case.result
    logits = as_array(sparse_train.segmentation.row_logits)
    scale = sparse_train.facts["logits_rms"]
    assert rms(logits) == pytest.approx(scale, rel=1e-4)
    difference = logits[result["train_logit_rows"]] - result["train_logits_sample"]
    noise = sparse_train.case.noise["train_logits_rms_diff_vs_fp64"]
    assert rms(difference) < min(2e-5 * scale, SPREAD * noise)
    assert np.abs(difference).max() < 1e-3 * scale
    for name, recorded in sparse_train.facts["stage_rms"].items():
        assert rms(as_array(sparse_train.stages[name])) == pytest.approx(recorded, rel=1e-4), name


def test_sparse_running_statistics(sparse_train: Run) -> None:
    state = sparse_train.network.state_dict()
    limit = min(1e-5, SPREAD * sparse_train.case.noise["bn_running_rel_worst"])
    for name, facts in sparse_train.facts["bn_after"].items():
        for statistic in ("mean", "var"):
            norm = np.linalg.norm(as_array(state[f"{name}.running_{statistic}"]))
            assert norm == pytest.approx(facts[f"{statistic}_norm"], rel=limit), (name, statistic)


def _sorted_cells(layer_cases: dict[str, NDArray[Any]]) -> tuple[Tensor, NDArray[np.int64]]:
    coords = layer_cases["coords"][:, [3, 0, 1, 2]]
    order = np.lexsort(coords.T[::-1])
    return torch.from_numpy(coords[order]), order


def _kernel(layer_cases: dict[str, NDArray[Any]], name: str) -> Tensor:
    kernel = torch.from_numpy(layer_cases[name])
    return next(iter(from_torchsparse({"x.kernel": kernel}).values()))


def test_sparse_layer_chain_and_its_gradients(
    layer_cases: dict[str, NDArray[Any]], sparse_device: str, sparse_backend: str
) -> None:
    coords, order = _sorted_cells(layer_cases)
    x, y, z = (coords[:, 1:].amax(0) + 1).tolist()
    fine, coarse = build_levels(
        coords.to(sparse_device),
        extent=(x, y, z),
        batch_size=2,
        backend=choose_backend(sparse_backend, torch.device(sparse_device)).backend,
        n_levels=2,
    )
    layers = {
        "subm3": (NeighbourConv(3, 5), fine, fine),
        "down2": (DownConv(5, 4), fine, coarse),
        "subm3_s2": (NeighbourConv(4, 4), coarse, coarse),
        "up2": (UpConv(4, 6), fine, fine),
    }
    source = torch.from_numpy(layer_cases["feats"][order]).to(sparse_device).requires_grad_()
    features = source
    for name, (layer, level, out_level) in layers.items():
        layer.to(sparse_device)
        layer.weight.data = _kernel(layer_cases, f"{name}_kernel").to(sparse_device)
        features = layer(features, level)
        place = torch.from_numpy(layer_cases[f"{name}_coords"][:, [3, 0, 1, 2]]).to(sparse_device)
        place[:, 1:] //= out_level.stride
        assert len(place) == len(out_level.coords)
        ours = as_array(features[out_level.index.find(place)])
        np.testing.assert_allclose(ours, layer_cases[f"{name}_out"], atol=2e-5)
    pointwise = nn.Linear(6, 7, bias=False).to(sparse_device)
    pointwise.weight.data = _kernel(layer_cases, "k1_kernel").to(sparse_device)
    features = pointwise(features)
    np.testing.assert_allclose(as_array(features), layer_cases["k1_out"][order], atol=2e-5)
    features.backward(torch.from_numpy(layer_cases["upstream_grad"][order]).to(sparse_device))
    assert source.grad is not None
    expected = layer_cases["feats_grad"][order]
    np.testing.assert_allclose(as_array(source.grad), expected, atol=2e-5)
    for name, module in (*((n, entry[0]) for n, entry in layers.items()), ("k1", pointwise)):
        expected = as_array(_kernel(layer_cases, f"{name}_kernel_grad"))
        np.testing.assert_allclose(as_array(module.weight.grad), expected, rtol=1e-5, atol=3e-4)


def test_sparse_offset_numbers(layer_cases: dict[str, NDArray[Any]]) -> None:
    # A kernel that holds its own offset's number shows where each number goes.
    for name, size, low in (("offsets27", 3, -1), ("offsets8", 2, 0)):
        offsets = layer_cases[name].astype(np.int64) - low
        numbers = torch.arange(size**3, dtype=torch.float32).view(-1, 1, 1)
        kernel = next(iter(from_torchsparse({"x.kernel": numbers}).values()))[0, ..., 0].numpy()
        np.testing.assert_array_equal(kernel[tuple(offsets.T)], np.arange(size**3))


def _strides(layer_cases: dict[str, NDArray[Any]], prefix: str) -> list[int]:
    keys = [key for key in layer_cases if key.startswith(prefix) and key.endswith("_out")]
    return sorted(int(key.removeprefix(prefix).removesuffix("_out")) for key in keys)


def _points_and_voxels(
    layer_cases: dict[str, NDArray[Any]], stride: int, device: str
) -> tuple[Tensor, Tensor, VoxelIndex]:
    points = torch.from_numpy(layer_cases["pt_coords"]).to(device)
    coords = torch.from_numpy(layer_cases[f"v2p_s{stride}_voxel_coords"][:, [3, 0, 1, 2]])
    coords[:, 1:] //= stride
    x, y, z = (coords[:, 1:].amax(0) + 1).tolist()
    packing = KeyPacking(extent=(x, y, z), batch_size=int(points[:, 3].max()) + 1)
    index = VoxelIndex.build(coords.to(device), packing=packing)
    return points[:, :3], points[:, 3].long(), index


def test_sparse_voxel_to_point(layer_cases: dict[str, NDArray[Any]], sparse_device: str) -> None:
    strides = _strides(layer_cases, "v2p_s")
    assert strides
    for stride in strides:
        key = f"v2p_s{stride}"
        position, sample, index = _points_and_voxels(layer_cases, stride, sparse_device)
        corners = Corners.find(position, sample, index=index, stride=stride)
        recorded_rows = layer_cases[f"{key}_idx"]
        weight = as_array(corners.weight)
        np.testing.assert_allclose(weight, layer_cases[f"{key}_weights"], atol=1e-5)
        is_used = weight > 0
        np.testing.assert_array_equal(as_array(corners.rows)[is_used], recorded_rows[is_used])
        features = torch.from_numpy(layer_cases[f"{key}_voxel_feats"]).to(sparse_device)
        features.requires_grad_()
        read = corners.read(features)
        np.testing.assert_allclose(as_array(read), layer_cases[f"{key}_out"], atol=2e-5)
        read.backward(torch.from_numpy(layer_cases[f"{key}_upstream"]).to(sparse_device))
        assert features.grad is not None
        expected = layer_cases[f"{key}_feats_grad"]
        np.testing.assert_allclose(as_array(features.grad), expected, rtol=1e-5, atol=5e-5)


def test_sparse_point_to_voxel(layer_cases: dict[str, NDArray[Any]], sparse_device: str) -> None:
    strides = _strides(layer_cases, "p2v_s")
    assert strides
    for stride in strides:
        key = f"p2v_s{stride}"
        position, sample, index = _points_and_voxels(layer_cases, stride, sparse_device)
        rows = torch.from_numpy(layer_cases[f"{key}_point_rows"]).long().to(sparse_device)
        cells = Cells.find(position[rows], sample[rows], index=index, stride=stride)
        np.testing.assert_array_equal(as_array(cells.row), layer_cases[f"{key}_idx"])
        counts = layer_cases[f"{key}_counts"]
        np.testing.assert_array_equal(as_array(points_per_voxel(cells)), counts)
        features = torch.from_numpy(layer_cases[f"{key}_point_feats"]).to(sparse_device)
        features.requires_grad_()
        mean = cells.average(features)
        np.testing.assert_allclose(as_array(mean), layer_cases[f"{key}_out"], atol=1e-5)
        mean.backward(torch.from_numpy(layer_cases[f"{key}_upstream"]).to(sparse_device))
        assert features.grad is not None
        expected = layer_cases[f"{key}_point_grad"]
        np.testing.assert_allclose(as_array(features.grad), expected, rtol=1e-5, atol=1e-5)


def test_sparse_quantisation_case(layer_cases: dict[str, NDArray[Any]], sparse_device: str) -> None:
    points = torch.from_numpy(layer_cases["quant_in"]).to(sparse_device)
    cells = quantize(points, torch.tensor([0, len(points)]), voxel_m=1.0)
    lowest = layer_cases["quant_in"].min(0).astype(np.int64)
    np.testing.assert_array_equal(
        as_array(cells.coords)[:, 1:] + lowest, layer_cases["quant_coords"]
    )
    np.testing.assert_array_equal(as_array(cells.first), layer_cases["quant_inds"])
    np.testing.assert_array_equal(as_array(cells.inverse), layer_cases["quant_inverse"])
