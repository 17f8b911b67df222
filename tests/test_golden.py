"""The networks equal the recorded numbers of the published code.

Float32's limits are ten times the distance of the published code's own float32 runs from its
float64 run, and at most what the recordings' README.md files suggest, which are the limits of
recordings that say nothing of it. Float64's are as sharp as the recording's digits: float32 arrays,
ten digits of a gradient. `test_golden_keys.py` says which test reads which recorded value.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from batch_voxels import as_scale_voxels
from golden_cases import Recording, Replay, as_array, named_noise, replay, voxel_pieces
from golden_small_checks import *  # noqa: F403 - small facts beside the cases
from golden_torchsparse_checks import *  # noqa: F403 - the other two networks' tests
from golden_torchsparse_float64 import *  # noqa: F403 - the same networks, to the digit
from numpy.typing import NDArray
from torch import Tensor

from pass2d.models.backends.native import Native
from pass2d.models.network import Targets
from pass2d.models.twodpass.encoder3d import point_features
from pass2d.models.twodpass.geometry import build_geometry
from pass2d.models.twodpass.published_names import published_name
from pass2d.models.twodpass.voxels import piece_label_counts, voxel_labels
from pass2d.train.optim.losses import HeadLogits, segmentation_losses

CASES = Recording.find_all()
NO_CASES = [pytest.param(None, id="none", marks=pytest.mark.skip(reason="no case_* folder"))]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]

LIMITS = {
    torch.float32: {
        "features": 5e-5,
        "logits": 1e-4,
        "logits_255": 5e-4,
        "layers": 5e-4,
        "image": 2e-2,
        "total": 1e-5,
        "loss": 1e-4,
        "after_step": 1e-4,
        "gradient": 5e-2,
        "dot": 0.5,
        "gradient_median": 1e-3,
        "dot_median": 1e-3,
        "norm": 1e-3,
        "statistics": 5e-4,
        "step": 5e-2,
    },
    torch.float64: {
        "features": 5e-6,
        "logits": 1e-6,
        "logits_255": 1e-6,
        "layers": 1e-6,
        "image": 1e-6,
        "total": 1e-11,
        "loss": 1e-11,
        "after_step": 1e-11,
        "gradient": 1e-9,
        "dot": 1e-8,
        "gradient_median": 1e-9,
        "dot_median": 1e-9,
        "norm": 1e-11,
        "statistics": 1e-8,
        "step": 1e-7,
        "summary": 1e-11,
    },
}

RUNS = [
    pytest.param(
        (case, device, dtype, backend),
        id=f"{case.name}-{device}-{str(dtype).removeprefix('torch.')}-{backend}",
        marks=[pytest.mark.gpu] * (device == "cuda")
        + [pytest.mark.slow] * (dtype == torch.float64 and case.is_slow_in_float64),
    )
    for case in CASES
    for dtype in (torch.float32, torch.float64)
    # spconv's sparse convolutions know no float64 on a GPU
    for device in (["cpu", "cuda"] if dtype == torch.float32 else ["cpu"])
    for backend in (["native", "spconv"] if dtype == torch.float32 else ["native"])
]


@pytest.fixture(autouse=True)
def _plain_float32() -> Iterator[None]:
    """The limits hold without TF32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(scope="module", params=RUNS or NO_CASES)
def run(request: pytest.FixtureRequest) -> Replay:
    case, device, dtype, backend = request.param
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if backend == "spconv":
        pytest.importorskip("spconv")
    return _cached_run(case, device, dtype, backend)


@lru_cache(maxsize=2)
def _cached_run(case: Recording, device: str, dtype: torch.dtype, backend: str) -> Replay:
    return replay(case, device, dtype, backend)


@pytest.fixture(params=CASES or NO_CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Recording:
    return request.param


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param


def distance(ours: NDArray[Any], recorded: NDArray[Any]) -> float:
    """Largest distance over the recording's root mean square."""
    recorded = recorded.astype(np.float64)
    assert ours.shape == recorded.shape
    return float(np.abs(ours - recorded).max() / np.sqrt(np.mean(recorded**2)))


def relative(ours: float | Tensor, recorded: float) -> float:
    """Distance over the recorded value; the distance itself where 0 is recorded."""
    return abs(float(ours) - recorded) / (abs(recorded) or 1)


SPREAD = 10
"""Ours may differ by so many times what the published code's float32 runs do: only two exist."""
LEAST_NOISE = 2.0**-22
"""Two float32 runs may agree by chance; four units in the last place do not count as chance."""


def limits_of(run: Replay) -> dict[str, float]:
    limits = dict(LIMITS[run.dtype])
    if run.dtype == torch.float64:
        noise = {"gradient": "grad_l2", "dot": "grad_dot_over_l2", "step": "sgd_delta"}
        for name, recorded in noise.items():
            limits[name] += 100 * run.case.float64_noise(recorded)
    return limits


def limit_by_noise(run: Replay, name: str, noise: float | None) -> float:
    """The limit called `name`, in float32 by the recording's noise where that is known."""
    limit = limits_of(run)[name]
    if run.dtype == torch.float64 or noise is None:
        return limit
    return min(limit, SPREAD * max(noise, LEAST_NOISE))


def logits_limit(run: Replay, kind: str) -> float:
    is_raw = run.case.inputs["points"][:, 3].max() > 1  # 0..255: rounding weighs more
    noise = run.case.float32_noise(f"{kind}_logits", "max_over_rms")
    return limit_by_noise(run, "logits_255" if is_raw else "logits", noise)


def recorded_for(case: Recording, arrays: dict[str, NDArray[Any]], name: str) -> NDArray[Any]:
    """An array that not every recording has; skips without it."""
    if name not in arrays:
        pytest.skip(f"{case.name} records no {name}")
    return arrays[name]


def test_normalised_image_is_the_recorded_one(case: Recording) -> None:
    ours = case.images[:, :, ::16, ::16].numpy()
    recorded = recorded_for(case, case.inputs, "normalised_image_slice")
    np.testing.assert_allclose(ours, recorded, rtol=0, atol=1e-6)


def test_voxels_are_exact(case: Recording, device: str) -> None:
    for voxels in as_scale_voxels(voxel_pieces(case, device)):
        recorded = case.voxels[f"scale{voxels.scale}_coors_bzyx"]
        np.testing.assert_array_equal(voxels.coords.cpu().numpy(), recorded)
        inverse = case.voxels[f"scale{voxels.scale}_coors_inv"]
        np.testing.assert_array_equal(voxels.inverse.cpu().numpy(), inverse)


def test_voxel_labels_are_exact(case: Recording, device: str) -> None:
    levels = voxel_pieces(case, device)
    labels = torch.from_numpy(case.inputs["labels"].astype(np.int64)).to(device)
    counts = piece_label_counts(levels, labels, n_classes=case.config["num_classes"])
    if not any(name.endswith("_voxel_label") for name in case.voxels):
        pytest.skip(f"{case.name} records no voxel labels")
    for level, count in zip(levels, counts, strict=True):
        recorded = case.voxels.get(f"scale{level.scale}_voxel_label")
        if recorded is not None:
            np.testing.assert_array_equal(voxel_labels([level], [count])[0].cpu().numpy(), recorded)


def test_voxels_with_tied_labels(case: Recording) -> None:
    """Where more than one label has the most points, in every voxel of the recorded scales."""
    ties = case.scalars.get("voxel_label_ties")
    if ties is None:
        pytest.skip(f"{case.name} records no ties")
    checked = 0
    for scale, facts in ties.items():
        inverse = case.voxels[f"scale{scale}_coors_inv"]
        counts = np.zeros((facts["voxels"], case.config["num_classes"]), np.int64)
        np.add.at(counts, (inverse, case.inputs["labels"]), 1)
        most = counts == counts.max(1, keepdims=True)
        tied = most.sum(1) > 1
        assert tied.sum() == facts["tied"]
        np.testing.assert_array_equal(tied, case.voxels[f"scale{scale}_voxel_label_tied"])
        levels = voxel_pieces(case, "cpu")
        labels = torch.from_numpy(case.inputs["labels"].astype(np.int64))
        pieces = piece_label_counts(levels, labels, n_classes=counts.shape[1])
        for level, of_level in zip(levels, pieces, strict=True):
            if level.scale == int(scale):
                ours = voxel_labels([level], [of_level])[0].numpy()
                np.testing.assert_array_equal(ours[tied], most[tied].argmax(1))
                checked += int(tied.sum())
    assert checked == sum(facts["tied"] for facts in ties.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_input_feature(case: Recording, device: str, dtype: torch.dtype) -> None:
    levels, batch = voxel_pieces(case, device), case.batch(device)
    geometry = build_geometry(
        batch.points,
        levels=levels,
        grid=case.grid,
        n_scans=len(batch.offsets) - 1,
        head_level=1,
        convolved=(),
        backend=Native(),
    )
    ours = np.empty((len(batch.points), 10))
    ours[levels[0].order.cpu().numpy()] = as_array(point_features(geometry, dtype=dtype))
    recorded = recorded_for(case, case.forward, "input_feature_10")
    limit = LIMITS[dtype]["features"]
    if dtype == torch.float32 and (noise := case.float32_noise("feat10", "max_abs")) is not None:
        limit = min(limit, SPREAD * noise)
    np.testing.assert_allclose(ours, recorded, rtol=0, atol=limit)
    for facts in (run["feat10"] for run in case.noise.values()):
        assert is_recorded(np.sqrt(np.mean(ours**2)), facts["rms"])
        assert is_recorded(np.abs(ours).max(), facts["absmax"])


def is_recorded(ours: np.floating, recorded: float) -> bool:
    """Some recordings round what they say of noise to three digits."""
    return relative(float(ours), recorded) <= 1e-6 or float(f"{ours:.3g}") == recorded


def test_labels_of_visible_points(case: Recording) -> None:
    batch = case.batch("cpu")
    assert batch.images is not None
    assert batch.labels is not None
    ours = batch.labels[batch.images.point_index]
    np.testing.assert_array_equal(ours.numpy(), recorded_for(case, case.inputs, "img_label"))


def test_logits(run: Replay) -> None:
    passes = {"eval": run.evaluation, "bncal_eval": run.calibrated, "train": run.training}
    checked = 0
    for name, recorded in run.case.forward.items():
        kind, is_logits, step = name.partition("_logits")
        if is_logits:
            ours = passes[kind].logits[:: int(step.removeprefix("_every") or 1)]
            kind = "bncal" if kind == "bncal_eval" else kind
            assert distance(ours, recorded) <= logits_limit(run, kind), name
            checked += 1
    assert checked


@pytest.mark.parametrize("kind", ["eval", "bncal"])
def test_layers(run: Replay, kind: str) -> None:
    recorded = run.case.forward
    limit = limit_by_noise(run, "layers", run.case.float32_noise(f"{kind}_layers"))
    layers = (run.evaluation if kind == "eval" else run.calibrated).layers
    assert len(layers) == len(run.case.config["scale_list"])
    for i, layer in enumerate(layers):
        rows = recorded_for(run.case, recorded, f"{kind}_layer{i}_pts_feat_rows")
        facts = run.case.summary(f"{kind}_layer{i}")
        assert len(layer) == facts.get("rows", len(layer))
        assert distance_of_every_nth(layer, rows, facts) <= limit
        for name, ours in (("mean", layer.mean(0)), ("std", layer.std(0))):
            channels = recorded.get(f"{kind}_layer{i}_channel_{name}")
            assert channels is None or distance(ours, channels) <= limit


def distance_of_every_nth(
    ours: NDArray[Any], recorded: NDArray[Any], facts: dict[str, Any]
) -> float:
    """Each `row_step`-th row is recorded; unsaid, one of the steps that give as many rows."""
    steps = [facts["row_step"]] if "row_step" in facts else range(1, len(ours) + 1)
    fitting = [step for step in steps if len(ours[::step]) == len(recorded)]
    assert fitting
    return min(distance(ours[::step], recorded) for step in fitting)


def test_image_features(run: Replay) -> None:
    for scale, rows in run.training.images.items():
        recorded = recorded_for(run.case, run.case.forward, f"train_img_scale{scale}_rows")
        facts = run.case.summary(f"train_img_scale{scale}")
        noise = run.case.float32_noise("img_feats", f"img_scale{scale}")
        limit = limit_by_noise(run, "image", noise)
        assert distance_of_every_nth(rows, recorded, facts) <= limit


def test_array_summaries(run: Replay) -> None:
    """In float64 to the last digits; what a value's summary says of whole arrays."""
    if run.dtype != torch.float64:
        pytest.skip("the rows themselves are compared in float32")
    arrays = {
        "eval_logits": run.evaluation.logits,
        "bncal_logits": run.calibrated.logits,
        "train_logits": run.training.logits,
    }
    for i in range(len(run.evaluation.layers)):
        arrays[f"eval_layer{i}"] = run.evaluation.layers[i]
        arrays[f"bncal_layer{i}"] = run.calibrated.layers[i]
    arrays |= {f"train_img_scale{s}": rows for s, rows in run.training.images.items()}
    summaries = run.case.scalars.get("array_summaries", {})
    assert summaries.keys() <= arrays.keys()
    for name, facts in summaries.items():
        check_summary(arrays[name], facts, limits_of(run)["summary"])


def check_summary(ours: NDArray[np.float64], facts: dict[str, Any], limit: float) -> None:
    rms = float(np.sqrt(np.mean(ours**2)))
    n_classes = ours.shape[1]
    found = {
        "rows": len(ours),
        "mean": float(ours.mean()),
        "rms": rms,
        "absmax": float(np.abs(ours).max()),
        "argmax_counts": np.bincount(ours.argmax(1), minlength=n_classes).tolist(),
    }
    assert facts.keys() <= found.keys() | {"row_step"}
    for name, recorded in facts.items():
        if name in ("rows", "argmax_counts"):
            assert found[name] == recorded, name
        elif name != "row_step":
            assert abs(found[name] - recorded) <= limit * max(rms, abs(recorded)), name


@pytest.mark.parametrize("name", ["mean", "rms", "absmax"])
def test_a_summary_wrong_by_1e_4_is_found(name: str) -> None:
    ours = np.array([[3.0, -4.0], [0.0, 5.0]])
    facts = {"mean": 1.0, "rms": np.sqrt(12.5), "absmax": 5.0, "argmax_counts": [1, 1]}
    limit = LIMITS[torch.float64]["summary"]
    check_summary(ours, facts, limit)
    with pytest.raises(AssertionError):
        check_summary(ours, facts | {name: facts[name] * (1 + 1e-4)}, limit)


RECORDED_PARTS = {
    "scale_idx{i}_seg_loss_3d_ce": "voxel_ce_{i}",
    "scale_idx{i}_seg_loss_3d_lovasz": "voxel_lovasz_{i}",
    "scale_idx{i}_seg_loss_2d_ce": "fused_ce_{i}",
    "scale_idx{i}_seg_loss_2d_lovasz": "fused_lovasz_{i}",
    "scale_idx{i}_xm_loss": "xm_{i}",
}


def main_losses(loss: Any) -> dict[str, Tensor]:
    """By recorded name."""
    return {
        "loss": loss.total.detach(),
        "loss_main_ce": loss.parts["main_ce"],
        "loss_main_lovasz": loss.parts["main_lovasz"],
    }


def check_losses(ours: dict[str, Tensor], recorded: dict[str, Any], run: Replay) -> None:
    """Every recorded term; those with tied voxels ignored have a test of their own."""
    assert "loss" in recorded
    for name, values in recorded.items():
        if not name.endswith("_ties_ignored"):
            limit = limit_by_noise(run, "total" if name == "loss" else "loss", noise_of(recorded))
            assert relative(ours[name], values["f64"]) <= limit, name


def noise_of(recorded: dict[str, dict[str, float]]) -> float | None:
    """Largest relative distance of values in float32 from theirs in float64; None: not recorded."""
    return max(
        (
            relative(value, values["f64"])
            for values in recorded.values()
            for kind, value in values.items()
            if kind.startswith("f32_")
        ),
        default=None,
    )


def test_evaluation_losses(run: Replay) -> None:
    check_losses(main_losses(run.evaluation.loss), run.case.scalars["eval_losses"], run)
    if "bncal_eval_losses" in run.case.scalars:
        check_losses(main_losses(run.calibrated.loss), run.case.scalars["bncal_eval_losses"], run)


def test_training_losses(run: Replay) -> None:
    ours, parts = main_losses(run.training.loss), run.training.loss.parts
    for i in range(len(run.case.config["scale_list"])):
        for theirs, name in RECORDED_PARTS.items():
            ours[theirs.format(i=i)] = parts[name.format(i=i)]
        for kind in ("3d", "2d"):
            whole = f"scale_idx{i}_seg_loss_{kind}"
            ours[whole] = ours[f"{whole}_ce"] + ours[f"{whole}_lovasz"]
    ours["img_seg_loss_final_ce"] = parts["image_ce"]
    ours["img_seg_loss_final_lovasz"] = parts["image_lovasz"]
    ours["img_seg_loss_final"] = parts["image_ce"] + parts["image_lovasz"]
    check_losses(ours, run.case.scalars["train_losses"], run)


def test_losses_with_tied_voxels_ignored(run: Replay) -> None:
    """Recorded for implementations that break ties otherwise: one more look at the voxel labels."""
    scales = [1, *run.case.config["scale_list"][:-1]]
    weights = run.case.class_weights(run.device, run.dtype)
    for i, (scale, block) in enumerate(zip(scales, run.training.segmentation.blocks, strict=True)):
        facts = run.case.scalars["train_losses"].get(f"scale_idx{i}_seg_loss_3d_ties_ignored")
        tied = run.case.voxels.get(f"scale{scale}_voxel_label_tied")
        if facts is None or tied is None:
            pytest.skip(f"{run.case.name} records no losses with tied voxels ignored")
        label = run.case.voxels[f"scale{scale}_voxel_label"].astype(np.int64)
        label[tied] = 0
        targets = Targets(label=torch.from_numpy(label).to(run.device))
        with torch.no_grad():
            (ce,), (lovasz,) = segmentation_losses(
                [HeadLogits(block.voxel_logits, targets)], weights
            )
        limit = limit_by_noise(run, "loss", noise_of(run.case.scalars["train_losses"]))
        assert relative(ce + lovasz, facts["f64"]) <= limit


def test_gradients(run: Replay) -> None:
    recorded = run.case.gradients["parameters"]
    assert run.gradients.keys() == recorded.keys()
    noise = gradient_noise(recorded)
    dot_noise = run.case.float32_noise("grad_dot_over_l2")
    norms, dots = [], []
    for name, gradient in run.gradients.items():
        facts = recorded[name]
        dot = float((gradient * named_noise(f"dot:{name}", gradient.shape)).sum())
        norms.append(relative(float(np.linalg.norm(gradient)), facts["l2"]))
        dots.append(abs(dot - facts["dot"]) / (facts["l2"] or 1))
        of_part = max(noise[name.partition(".")[0]], default=None)
        assert norms[-1] <= limit_by_noise(run, "gradient", of_part), name
        if run.dtype == torch.float64 or dot_noise is not None:
            assert dots[-1] <= limit_by_noise(run, "dot", dot_noise), name
    medians = [value for values in noise.values() for value in values]
    median = float(np.median(medians)) if medians else None
    assert np.median(norms) <= limit_by_noise(run, "gradient_median", median)
    median = run.case.float32_noise("grad_dot_over_l2", "median")
    assert np.median(dots) <= limit_by_noise(run, "dot_median", median)
    total = run.case.scalars["grad_total_norm"]
    limit = limit_by_noise(run, "norm", noise_of({"norm": total}))
    assert relative(run.gradient_norm, total["f64"]) <= limit


def gradient_noise(recorded: dict[str, dict[str, float]]) -> dict[str, list[float]]:
    """By part of the network: each parameter's largest distance of a float32 norm from float64's.

    The image network's convolutions in float32 are a hundred times noisier than the 3D network.
    """
    noise: dict[str, list[float]] = {}
    for name, facts in recorded.items():
        runs = [value for kind, value in facts.items() if kind.startswith("l2_f32_")]
        of_part = noise.setdefault(name.partition(".")[0], [])
        of_part += [max(relative(run, facts["l2"]) for run in runs)] if runs else []
    return noise


def test_batchnorm_statistics(run: Replay) -> None:
    recorded = run.case.gradients["batchnorm_after_train_forward"]
    assert run.statistics.keys() == recorded.keys()
    noise = run.case.float32_noise("bn_after_l2_max")
    for name, values in run.statistics.items():
        limit = limit_by_noise(run, "statistics", noise) * recorded[name]["l2"]
        assert abs(np.linalg.norm(values) - recorded[name]["l2"]) <= limit, name
        dot = float((values * named_noise(f"dot:{name}", values.shape)).sum())
        # A sum weighted by standard-normal numbers spreads by the norm of the error.
        assert abs(dot - recorded[name]["dot"]) <= 2 * limit, name


def test_one_step_of_sgd(run: Replay) -> None:
    recorded = run.case.gradients["parameters"]
    limit = limit_by_noise(run, "step", run.case.float32_noise("sgd_delta"))
    for name, facts in recorded.items():
        assert relative(run.step_changes[name], facts["sgd_step_l2"]) <= limit, name
    ours, after = main_losses(run.after_step), run.case.scalars["eval_losses_after_one_sgd_step"]
    limit = limit_by_noise(run, "after_step", noise_of(after))
    for name, values in after.items():
        assert relative(ours[name], values["f64"]) <= limit, name


def test_published_names_are_complete_both_ways(case: Recording) -> None:
    network = case.network("cpu", torch.float32)
    names = [entry["name"] for entry in case.state_entries]
    back = [published_name(name) for name in network.state_dict()]
    buffers = [name for name in names if name.endswith("ce_loss.weight")]
    assert sorted(map(str, back)) == sorted(set(names) - set(buffers))
    inference = [published_name(name) for name in network.inference_state()]
    assert sorted(map(str, inference)) == sorted(
        n for n in names if n.startswith("model_3d.") and n not in buffers
    )
