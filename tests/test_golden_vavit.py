"""VaViT equals the recorded numbers, in evaluation and training mode, padding as published."""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pass2d.models.inputs import Grid, PointBatch
from pass2d.models.network import Targets
from pass2d.models.registry import build_network
from pass2d.models.vavit.published_names import FREQUENCIES, our_name
from pass2d.models.vavit.thinning import thin
from pass2d.models.vavit.vavit import PreparedPillars, VaViT
from pass2d.train.optim.losses import LossConfig, compute_loss

FOLDER = Path(
    os.environ.get(
        "PASS2D_GOLDEN_VAVIT", Path(__file__).resolve().parents[1] / "../shared/golden_vavit"
    )
)
GRID = Grid(low=(-50.0, -50.0, -4.0), high=(50.0, 50.0, 2.0), shape=(1000, 1000, 60))
if not (FOLDER / "structure.json").exists():
    pytest.skip(f"no recordings of VaViT in {FOLDER}", allow_module_level=True)

META = json.loads((FOLDER / "structure.json").read_text())
CASES = sorted(path.stem for path in FOLDER.glob("*_b*.json"))
KINDS = {"linear", "norm_weight", "bias", "rmean", "rvar", "gamma", "pad"}


def config_of(case: str) -> dict[str, Any]:
    recorded = META["meta"]["configs"][case.rpartition("_")[0]]
    return {
        "point_width": recorded["emb_chidden"],
        "point_layers": recorded["emb_num_layers"],
        "width": recorded["vit_dim"],
        "depth": recorded["vit_depth"],
        "heads": recorded["vit_num_heads"],
        "expansion": recorded["vit_expansion"],
        "head_width": recorded["merge_chidden"],
        "head_out": recorded["merge_cout"],
    }


def kind_of(name: str) -> str:
    """The kind of an entry, told by the full-size list, which has the same names."""
    if name == "pad_token":
        return "pad"
    last = name.rpartition(".")[2]
    if last in ("running_mean", "running_var"):
        return {"running_mean": "rmean", "running_var": "rvar"}[last]
    if last in ("gamma", "bias"):
        return last
    if last in ("inv_freq", "num_batches_tracked"):
        return "kept"
    is_norm = name == "norm.weight" or ".norm." in name or "_mlp.1." in name or "_proj.1." in name
    return "norm_weight" if is_norm or name == "merge.merge.1.weight" else "linear"


def test_kinds_are_those_of_the_list() -> None:
    for name, _shape, _dtype, kind in META["full_size"]["semantic_kitti"]["state_dict"]:
        assert kind_of(name) == kind, name


def published_names(config: dict[str, Any]) -> list[str]:
    """Names of a network of these sizes, from the list at full size."""
    layers, depth = config["point_layers"], config["depth"]
    names = []
    for name, *_ in META["full_size"]["semantic_kitti"]["state_dict"]:
        parts = name.split(".")
        limit = {"embed": (1, layers), "vit": (2, depth)}.get(parts[0])
        if limit is None or int(parts[limit[0]]) < limit[1]:
            names.append(name)
    return names


def weight(salt: str, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    seed = zlib.crc32((salt + name).encode())
    g = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    value = {
        "linear": lambda: g * np.float32(np.sqrt(1 / shape[-1])),
        "norm_weight": lambda: 1 + np.float32(0.1) * g,
        "bias": lambda: np.float32(0.1) * g,
        "rmean": lambda: np.float32(0.1) * g,
        "rvar": lambda: 1 + np.float32(0.1) * np.abs(g),
        "gamma": lambda: np.float32(0.5) + np.float32(0.1) * g,
        "pad": lambda: np.float32(0.5) * g,
    }[kind_of(name)]()
    return torch.from_numpy(np.asarray(value, np.float32))


def network_of(case: str, dtype: torch.dtype, *, drop_path: float = 0.0) -> VaViT:
    config = config_of(case)
    settings = {**config, "padding": "published", "drop_path": drop_path}
    network = build_network("vavit", settings, grid=GRID, n_classes=20)
    assert isinstance(network, VaViT)
    state = network.state_dict()
    done = set()
    for name in published_names(config):
        ours = our_name(name)
        if kind_of(name) in KINDS:
            state[ours] = weight(META["meta"]["salt"], name, tuple(state[ours].shape))
        if not FREQUENCIES.match(name):
            done.add(ours)
    assert done == set(state)
    network.load_state_dict(state)
    return network.to(dtype)


@cache
def inputs(batch: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{batch}_inputs.npz") as file:
        return dict(file)


def recorded_points(batch: str) -> PointBatch:
    raw = inputs(batch)
    counts = np.bincount(raw["point_batch"])
    labels = raw["point_labels"].astype(np.int64) + 1
    labels[raw["point_labels"] == 255] = 0
    return PointBatch(
        points=torch.from_numpy(raw["points"]),
        offsets=torch.from_numpy(np.concatenate([[0], np.cumsum(counts)])),
        labels=torch.from_numpy(labels),
    )


def prepared(network: VaViT, batch: str, dtype: torch.dtype) -> PreparedPillars:
    """As in evaluation: the first point of a cell stays."""
    network.eval()
    found = network.prepare(recorded_points(batch))
    return PreparedPillars(
        **{
            name: value.to(dtype) if torch.is_tensor(value) and value.is_floating_point() else value
            for name, value in vars(found).items()
        }
    )


@pytest.mark.parametrize("batch", sorted({case.rpartition("_")[2] for case in CASES}))
def test_inputs_are_the_recorded_ones(batch: str) -> None:
    raw = inputs(batch)
    points = recorded_points(batch)
    rows, _ = thin(points.points, points.offsets, cell_m=0.1)
    assert len(rows) == raw["rows"].sum()
    network = build_network("vavit", config_of("small_b1"), grid=GRID, n_classes=20).eval()
    found = network.prepare(points)
    assert isinstance(found, PreparedPillars)
    np.testing.assert_array_equal(found.features[:, :4], raw["feat"][:, :4])
    np.testing.assert_allclose(found.features[:, 4], raw["feat"][:, 4], rtol=2e-7)
    assert np.mean(np.sort(found.neighbours, 1) != np.sort(raw["neighbors"], 1)) < 1e-4
    pillars = np.empty(len(raw["idx_occ"]), np.int64)
    # The recording numbers padded pillars; ours numbers occupied ones.
    number = np.full(int(raw["idx_occ"].max()) + 1, -1)
    number[raw["idx_occ"]] = np.arange(len(pillars))
    np.testing.assert_array_equal(found.pillar_of_point, number[raw["idx_bev"]])
    np.testing.assert_allclose(found.pillar_xy, raw["xy_bev"], atol=1e-6)
    np.testing.assert_array_equal(found.row_of_point, raw["upsample"])


def run(case: str, mode: str, dtype: torch.dtype) -> tuple[VaViT, torch.Tensor, dict[str, float]]:
    """A recorded pass: the network with gradients, its logits, its losses."""
    stem, batch = case.rpartition("_")[::2]
    drop_path = 0.3 if mode == "train_drop_path" else 0.0
    network = network_of(case, dtype, drop_path=drop_path)
    found = prepared(network, batch, dtype)
    labels = recorded_points(batch).labels
    assert labels is not None
    # All modes were recorded on the validation's inputs: losses of the original points.
    # The range differs in its last bit: torch's float32 square root is not the nearest float.
    features = torch.from_numpy(inputs(batch)["feat"]).to(dtype)
    targets = Targets(label=labels, row=found.row_of_point)
    found = replace(found, targets=targets, features=features)
    network.train(mode != "eval")
    if mode == "train_drop_path":
        keep = arrays(f"{stem}_{batch}")["drop_path_keep"].reshape(-1, 2, len(found.lengths))
        found = replace(found, kept=tuple((tuple(a), tuple(b)) for a, b in keep.tolist()))
    answer = network(found)
    terms = compute_loss(answer, found, config=LossConfig(lambda_lovasz=1.0))
    terms.total.backward()
    losses = {"loss": float(terms.total.detach())}
    return network, answer.row_logits[:, 1:].detach(), losses


@cache
def arrays(stem: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{stem}.npz") as file:
        return dict(file)


@cache
def numbers(case: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{case}.json").read_text())


MODES = [
    (case, mode)
    for case in CASES
    for mode in ("eval", "train", "train_drop_path")
    if mode in numbers(case)
]


@pytest.mark.parametrize(("case", "mode"), MODES)
def test_float64_is_the_recording(case: str, mode: str) -> None:
    check(case, mode, torch.float64, logit=2e-5, loss=1e-7, norm=1e-4, median=1e-5)


@pytest.mark.parametrize(("case", "mode"), MODES)
def test_float32_is_as_close_as_float32_can_be(case: str, mode: str) -> None:
    logit = 1e-4 if mode == "eval" else 2e-3
    check(case, mode, torch.float32, logit=logit, loss=2e-5, norm=3e-2, median=2e-3)


def check(
    case: str,
    mode: str,
    dtype: torch.dtype,
    *,
    logit: float,
    loss: float,
    norm: float,
    median: float,
) -> None:
    recorded = numbers(case)[mode]
    network, logits, losses = run(case, mode, dtype)
    rows = logits if mode == "eval" else logits[::2]
    np.testing.assert_allclose(rows.float(), arrays(case)[f"{mode}_logits"], rtol=0, atol=logit)
    assert losses["loss"] == pytest.approx(recorded["loss_f64"], rel=loss)
    if "bn_after" in recorded:
        state = network.state_dict()
        for name, value in recorded["bn_after"].items():
            assert float(state[our_name(name)].norm()) == pytest.approx(value, rel=1e-5), name
    grads = recorded.get("grads") or {}
    assert grads or (mode == "eval" and "b2" in case)
    own = dict(network.named_parameters())
    apart = []
    for name, value in grads.items():
        grad = own[our_name(name)].grad
        if value is None:  # took no part
            assert grad is None or not grad.any(), name
            continue
        if value.get("zero_in_exact_arithmetic"):
            assert grad is not None
            assert float(grad.norm()) < 1e-5
            continue
        if grad is None:
            assert value["norm"] == 0, name
            continue
        apart.append(abs(float(grad.double().norm()) - value["norm"]) / max(value["norm"], 1e-30))
        seed = zlib.crc32((META["meta"]["salt"] + name + "#dot").encode())
        against = np.random.default_rng(seed).standard_normal(tuple(grad.shape))
        dot = float((grad.double().numpy() * against).sum())
        assert dot == pytest.approx(value["dot"], abs=3 * norm * value["norm"]), name
    if apart:
        assert max(apart) < norm
        assert np.median(apart) < median


@pytest.mark.parametrize("name", ["semantic_kitti", "nuscenes", "waymo"])
def test_published_sizes(name: str) -> None:
    recorded = META["full_size"][name]
    n_classes = recorded["config"]["nb_class"] + 1
    with torch.device("meta"):
        network = build_network(
            "vavit", {"padding": "published"}, grid=GRID, n_classes=n_classes, device="meta"
        )
    assert network.n_parameters(inference_only=False) == recorded["parameters"]
    state = network.state_dict()
    listed = (
        META["full_size"][name].get("state_dict")
        or META["full_size"]["semantic_kitti"]["state_dict"]
    )
    for entry, shape, *_ in listed:
        if not FREQUENCIES.match(entry) and not (name != "semantic_kitti" and "classif" in entry):
            assert list(state[our_name(entry)].shape) == shape, entry
    assert len(listed) == recorded["entries"]
    assert len(listed) == len(state) + network.config.settings()["depth"]
