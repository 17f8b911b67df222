"""MinkUNet34 equals the recorded numbers, with both heads, on two backends, in both precisions."""

from __future__ import annotations

import json
import os
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pass2d.common.errors import ConfigError
from pass2d.models.backends.choice import choose_backend
from pass2d.models.inputs import Grid, PointBatch
from pass2d.models.network import Segmentation
from pass2d.models.registry import build_network
from pass2d.models.sparse_unets.kernel_layouts import library_kernel
from pass2d.models.sparse_unets.minkunet34 import MinkUNet34, PreparedStrides
from pass2d.models.sparse_unets.minkunet34_names import (
    from_published,
    published_name,
    to_published,
)
from pass2d.train.optim.losses import LossConfig, compute_loss

SHARED = Path(__file__).resolve().parents[1] / "../shared"
FOLDER = Path(os.environ.get("PASS2D_GOLDEN_MINKUNET34", SHARED / "golden_minkunet34"))
GRID = Grid(low=(-50.0, -50.0, -4.0), high=(50.0, 50.0, 2.0), shape=(1000, 1000, 60))
if not (FOLDER / "structure.json").exists():
    pytest.skip(f"no recordings of MinkUNet34 in {FOLDER}", allow_module_level=True)

STRUCTURE: dict[str, Any] = json.loads((FOLDER / "structure.json").read_text())
CASES = sorted(path.stem for path in FOLDER.glob("v[12]_w*_*.json"))
BATCHES = sorted({case.rpartition("_")[2] for case in CASES})
IGNORED = 19
"""The recordings' ignored label; class k of theirs is k + 1 of ours."""
LAYOUTS = ("torchsparse", "spconv", "minkowski")


def needs(backend: str) -> None:
    """Skip where a backend does not work."""
    try:
        choose_backend(backend, torch.device("cpu"))
    except ConfigError as error:
        pytest.skip(str(error))


def full_list(version: int) -> list[dict[str, Any]]:
    """All entries at full width; the second version lists what differs."""
    entries = STRUCTURE["minkunet34_w32"]["state_dict"]
    if version == 1:
        return entries
    own = {entry["torchsparse"]: entry for entry in STRUCTURE["minkunet34v2_w32"]["state_dict"]}
    return [own.get(entry["torchsparse"], entry) for entry in entries]


@cache
def numbers(case: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{case}.json").read_text())


@cache
def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{name}.npz") as file:
        return dict(file)


MODES = [(case, mode) for case in CASES for mode in ("eval", "train") if mode in numbers(case)]


def recorded_weight(salt: str, name: str, kind: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The rule of the recordings, for torchsparse's layout."""
    seed = zlib.crc32((salt + name).encode())
    g = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    tenth = np.float32(0.1)
    value = {
        "conv": lambda: g * np.float32(np.sqrt(2 / np.prod(shape[:-1]))),
        "linear": lambda: g * np.float32(np.sqrt(2 / np.prod(shape[1:]))),
        "bn_gamma": lambda: 1 + tenth * g,
        "bias": lambda: tenth * g,
        "rmean": lambda: tenth * g,
        "rvar": lambda: 1 + tenth * np.abs(g),
    }[kind]()
    return torch.from_numpy(np.asarray(value, np.float32))


def empty_network(version: int, width: int, *, backend: str = "native") -> MinkUNet34:
    settings = {"width_factor": width / 32, "head": f"v{version}"}
    network = build_network(
        "minkunet34", settings, grid=GRID, n_classes=20, backend=backend, device="cpu"
    )
    assert isinstance(network, MinkUNet34)
    return network


def recorded_network(case: str, *, backend: str, dtype: torch.dtype) -> MinkUNet34:
    info = numbers(case)
    network = empty_network(info["version"], info["base_width"], backend=backend)
    theirs = to_published(network.state_dict(), "torchsparse")
    kinds = {entry["torchsparse"]: entry["kind"] for entry in full_list(info["version"])}
    assert set(kinds) == set(theirs)
    state = {
        name: tensor
        if kinds[name] == "kept"
        else recorded_weight(info["salt"], name, kinds[name], tuple(tensor.shape))
        for name, tensor in theirs.items()
    }
    network.load_state_dict(from_published(state, "torchsparse", names=network.state_dict()))
    return network.to(dtype)


def recorded_batch(name: str) -> PointBatch:
    raw = arrays(f"{name}_inputs")
    labels = raw["point_labels"].astype(np.int64)
    return PointBatch(
        points=torch.from_numpy(raw["points"]),
        offsets=torch.from_numpy(np.concatenate([[0], np.cumsum(np.bincount(raw["point_batch"]))])),
        labels=torch.from_numpy(np.where(labels == IGNORED, 0, labels + 1)),
    )


def in_precision(prepared: PreparedStrides, dtype: torch.dtype) -> PreparedStrides:
    """Features in another precision; weights of corners follow the features by themselves."""
    return PreparedStrides(**{**vars(prepared), "features": prepared.features.to(dtype)})


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("backend", ["native", "spconv"])
def test_voxels_are_the_recorded_ones(name: str, backend: str) -> None:
    needs(backend)
    raw, info = arrays(f"{name}_inputs"), json.loads((FOLDER / "inputs.json").read_text())[name]
    network = empty_network(2, 8, backend=backend).eval()
    found = network.prepare(recorded_batch(name))
    coords = found.levels[0].coords
    np.testing.assert_array_equal(coords[:, [1, 2, 3, 0]], raw["voxel_coords"])
    np.testing.assert_array_equal(found.features, raw["voxel_feats"])
    assert found.targets is not None
    labels = raw["voxel_labels"].astype(np.int64)
    np.testing.assert_array_equal(found.targets.label, np.where(labels == IGNORED, 0, labels + 1))
    begin = np.concatenate([[0], np.cumsum(info["voxels"])])[raw["point_batch"].astype(int)]
    np.testing.assert_array_equal(found.row_of_point, raw["inverse_map"] + begin)
    first = raw["first_point"] + np.concatenate([[0], np.cumsum(info["points"])])[coords[:, 0]]
    np.testing.assert_array_equal(found.features, raw["points"][first])
    assert (coords[:, 1:].amax(0) + 1).tolist() == info["grid_max_plus_1"]
    pairs = info["pair_counts_brute_force"]
    for number, level in enumerate(found.levels):
        assert len(level.coords) == pairs[f"voxels_s{level.stride}"]
        cells = {tuple(row) for row in level.coords.tolist()}
        near = sum(
            (b, x + dx, y + dy, z + dz) in cells
            for b, x, y, z in cells
            for dx in (-1, 0, 1)
            for dy in (-1, 0, 1)
            for dz in (-1, 0, 1)
        )
        assert near == pairs[f"subm{number}"]
        if backend == "native":
            assert len(level.around.ahead.inputs) + len(cells) == near  # type: ignore[attr-defined]


def run(
    case: str, mode: str, *, backend: str, dtype: torch.dtype
) -> tuple[MinkUNet34, Segmentation, float]:
    """A recorded pass: the network with gradients, its answer and its loss."""
    network = recorded_network(case, backend=backend, dtype=dtype).train(mode == "train")
    found = in_precision(network.prepare(recorded_batch(case.rpartition("_")[2])), dtype)
    answer = network(found)
    loss = compute_loss(answer, found, config=LossConfig(lambda_lovasz=0.0)).total
    loss.backward()
    return network, answer, float(loss.detach())


@pytest.mark.parametrize(("case", "mode"), MODES)
def test_native_in_float32(case: str, mode: str) -> None:
    check(case, mode, backend="native", dtype=torch.float32)


@pytest.mark.parametrize(("case", "mode"), [(c, m) for c, m in MODES if "_w8_" in c])
def test_spconv_in_float32(case: str, mode: str) -> None:
    needs("spconv")
    check(case, mode, backend="spconv", dtype=torch.float32)


@pytest.mark.parametrize(
    ("case", "mode"), [(c, m) for c, m in MODES if numbers(c)["base_width"] < 32]
)
def test_float64_is_the_recording(case: str, mode: str) -> None:
    check(case, mode, backend="native", dtype=torch.float64)


def check(case: str, mode: str, *, backend: str, dtype: torch.dtype) -> None:
    """Compare with the recorded float64 run, within the limits that the recording names."""
    is_exact, is_eval = dtype == torch.float64, mode == "eval"
    network, answer, loss = run(case, mode, backend=backend, dtype=dtype)
    recorded, stored = numbers(case)[mode], arrays(case)
    logits = answer.row_logits[:, 1:].detach().double().numpy()
    want = stored[f"{mode}_logits"]
    every = round(len(logits) / len(want))
    apart = np.abs(logits[::every] - want)
    most, rms = (1e-4, 2e-6) if is_eval else (1e-3, 5e-5)
    assert apart.max() <= (1e-5 if is_exact else most)
    assert np.sqrt((apart**2).mean()) <= rms
    assert np.sqrt((logits**2).mean()) == pytest.approx(recorded["logits_rms"], rel=1e-5)
    if is_eval:
        # Two classes that are as good as equal may change places.
        second, first = np.sort(logits, axis=1)[:, -2:].T
        is_clear = first - second > 2 * most
        found, recorded_best = logits.argmax(1), stored["voxel_argmax"]
        np.testing.assert_array_equal(found[is_clear], recorded_best[is_clear])
        assert is_clear.mean() > 0.99
        assert not answer.row_logits.argmax(1).eq(0).any()
    assert loss == pytest.approx(
        recorded["loss_f64"], rel=1e-7 if is_exact else 1e-5 if is_eval else 2e-5
    )
    check_gradients(network, case, mode, is_exact=is_exact)
    state = to_published(network.state_dict(), "torchsparse")
    for name, value in recorded.get("bn_after", {}).items():
        limit = 1e-7 if is_exact else 1e-5
        assert float(state[name].norm()) == pytest.approx(value["norm"], rel=limit), name


def check_gradients(network: MinkUNet34, case: str, mode: str, *, is_exact: bool) -> None:
    info = numbers(case)
    recorded = info[mode]["grads"]
    grads = {
        published_name(name, "torchsparse"): library_kernel(parameter.grad, "torchsparse")
        if parameter.ndim >= 2 and not name.startswith("classifier.")
        else parameter.grad
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
    }
    assert set(grads) == {e["torchsparse"] for e in full_list(info["version"])} & set(grads)
    assert set(recorded) <= set(grads)
    apart = []
    for name, value in recorded.items():
        grad = grads[name].double().numpy()
        apart.append(abs(np.linalg.norm(grad) - value["norm"]) / value["norm"])
        seed = zlib.crc32((info["salt"] + name + "#dot").encode())
        dot = (grad * np.random.default_rng(seed).standard_normal(grad.shape)).sum()
        limit = (1e-5 if is_exact else 3e-2) * value["norm"]
        assert dot == pytest.approx(value["dot"], abs=limit), name
    assert max(apart) < (1e-5 if is_exact else 1e-2)
    assert np.median(apart) < (1e-6 if is_exact else 2e-3)
    total = np.sqrt(sum(float(grad.double().norm()) ** 2 for grad in grads.values()))
    assert total == pytest.approx(info[mode]["total_grad_norm"], rel=1e-5 if is_exact else 1e-3)
    for key, want in arrays(case).items():
        if key.startswith(f"{mode}_grad_"):
            got = grads[key.removeprefix(f"{mode}_grad_")].double().numpy()
            off = np.linalg.norm(got - want) / np.linalg.norm(want)
            assert off < (1e-5 if is_exact else 1e-2), key


def test_parameters() -> None:
    for key, recorded in STRUCTURE.items():
        if "minkunet34" not in key:
            continue
        version = 2 if "v2" in key else 1
        width = int(key.split("_")[1][1:])
        with torch.device("meta"):
            network = build_network(
                "minkunet34",
                {"width_factor": width / 32, "head": f"v{version}"},
                grid=GRID,
                n_classes=20,
                device="meta",
            )
        want = recorded if isinstance(recorded, int) else recorded["parameters"]
        assert network.n_parameters(inference_only=False) == want, key


def test_shallow_networks_have_the_recorded_size() -> None:
    """The networks of this family with two blocks per stage."""
    for key, recorded in STRUCTURE.items():
        if not key.startswith("minkunet18"):
            continue
        settings = {
            "width_factor": int(key.split("_")[1][1:]) / 32,
            "head": "v1",
            "blocks": [2, 2, 2, 2],
        }
        with torch.device("meta"):
            network = build_network("minkunet34", settings, grid=GRID, n_classes=20, device="meta")
        if "w20" in key:  # 163, 81 and 61 wide: rounded down, ours are 160, 80 and 60
            widths = [20, 20, 40, 81, 163, 163, 81, 61, 61]
            settings = {"base_widths": widths, "head": "v1", "blocks": [2, 2, 2, 2]}
            with torch.device("meta"):
                network = build_network(
                    "minkunet34", settings, grid=GRID, n_classes=20, device="meta"
                )
        assert network.n_parameters(inference_only=False) == recorded, key


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_entries_of_each_published_layout(version: int, layout: str) -> None:
    with torch.device("meta"):
        network = build_network(
            f"minkunet34-v{version}", {}, grid=GRID, n_classes=20, device="meta"
        )
    theirs = to_published(network.state_dict(), layout)  # type: ignore[arg-type]
    want = {entry[layout]: entry[f"shape_{layout}"] for entry in full_list(version)}
    assert {name: list(tensor.shape) for name, tensor in theirs.items()} == want
    assert len(theirs) == STRUCTURE[f"minkunet34{'v2' if version == 2 else ''}_w32"]["entries"]
