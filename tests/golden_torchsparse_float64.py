"""The two torchsparse networks in float64, to the digits of the recording's own float64.

`test_golden.py` collects these tests. What the library computed in float32 is then compared the
other way round: it must lie as far from ours as the recording says that it lies from float64.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_torchsparse_cases import (
    Case,
    Run,
    as_array,
    draw_named,
    points_per_voxel,
    rms,
    run_case,
)
from golden_torchsparse_checks import ALL_CASES, LOSS_PARTS

from pass2d.models.sparse_unets.spvcnn import PreparedPointVoxels

__all__ = [  # the tests and their fixture: what a test file may collect
    "sparse_exact",
    "test_sparse_exact_gradients",
    "test_sparse_exact_logits",
    "test_sparse_exact_losses",
    "test_sparse_exact_running_statistics",
    "test_sparse_recorded_gradients_lie_as_far_from_exact_ones_as_recorded",
    "test_sparse_voxels_with_more_than_one_row",
]

MODES = ("eval", "train")
SMALL = 10_000
"""Voxels of a case that is quick in float64."""


def is_slow(case: Case, mode: str) -> bool:
    """All but the small batch, without its training mode, takes too long for every day."""
    return mode == "train" or case.facts["voxels_per_stride"]["1"] > SMALL


RUNS = [
    pytest.param(
        (case, mode),
        id=f"{case.name}-{mode}",
        marks=[pytest.mark.slow] * is_slow(case, mode),
    )
    for case in ALL_CASES
    for mode in MODES
]


@pytest.fixture(
    scope="module",
    params=RUNS or [pytest.param(None, marks=pytest.mark.skip(reason="no recordings"))],
)
def sparse_exact(request: pytest.FixtureRequest) -> Run:
    case, mode = request.param
    return run_case(case, mode, "cpu", torch.float64)


def test_sparse_exact_losses(sparse_exact: Run) -> None:
    recorded = sparse_exact.case.noise[f"{sparse_exact.mode}_fp64"]
    assert recorded.keys() == LOSS_PARTS.keys()
    for theirs, value in recorded.items():
        ours = float(sparse_exact.loss.parts[LOSS_PARTS[theirs]])
        assert ours == pytest.approx(value, rel=1e-10), theirs


def test_sparse_exact_gradients(sparse_exact: Run) -> None:
    recorded = sparse_exact.facts["grads"]
    assert sparse_exact.gradients.keys() == recorded.keys()
    for name, facts in recorded.items():
        gradient = sparse_exact.gradients[name]
        norm = float(np.linalg.norm(gradient))
        if facts.get("zero_in_exact_arithmetic"):
            assert norm < 1e-14, name
            continue
        assert norm == pytest.approx(facts["norm_fp64"], rel=1e-8), name
        dot = np.vdot(gradient, draw_named(f"{name}#dot", list(gradient.shape)))
        assert abs(dot - facts["dot_fp64"]) <= 1e-8 * norm, name


def test_sparse_recorded_gradients_lie_as_far_from_exact_ones_as_recorded(
    sparse_exact: Run,
) -> None:
    mode, case = sparse_exact.mode, sparse_exact.case
    recorded, prefix = sparse_exact.facts["grads"], f"{sparse_exact.mode}_grad_"
    stored = {k.removeprefix(prefix): v for k, v in case.result.items() if k.startswith(prefix)}
    assert stored
    for name, float32 in stored.items():
        exact = sparse_exact.gradients[name]
        distance = float(np.linalg.norm(float32 - exact) / np.linalg.norm(exact))
        assert distance == pytest.approx(recorded[name]["rel_l2_err_vs_fp64"], rel=1e-3), name
    for name, facts in recorded.items():
        if not facts.get("zero_in_exact_arithmetic"):
            # No element lies further off than the whole, and the stored norm has float32's digits.
            room = (facts["rel_l2_err_vs_fp64"] + 1e-6) * facts["norm_fp64"]
            assert abs(np.abs(sparse_exact.gradients[name]).max() - facts["absmax"]) <= room, name
    noise = sparse_exact.gradient_noise()
    assert np.median(noise) <= 1.01 * case.noise[f"{mode}_grad_rel_l2_vs_fp64_median"]
    worst = dict(case.noise[f"{mode}_grad_rel_l2_vs_fp64_worst"])
    for name, value in worst.items():
        assert recorded[name]["rel_l2_err_vs_fp64"] == pytest.approx(value), name


def test_sparse_exact_logits(sparse_exact: Run) -> None:
    case, result = sparse_exact.case, sparse_exact.case.result
    ours = as_array(sparse_exact.segmentation.row_logits)
    if sparse_exact.mode == "train":
        difference = ours[result["train_logit_rows"]] - result["train_logits_sample"]
        noise = case.noise["train_logits_rms_diff_vs_fp64"]  # of all rows, a few are stored
        assert noise / 3 < rms(difference) < 3 * noise
        return
    difference = ours - result["voxel_logits"]
    for kind, value in (("rms", rms(difference)), ("max", float(np.abs(difference).max()))):
        noise = case.noise[f"eval_logits_{kind}_diff_vs_fp64"]
        assert value == pytest.approx(noise, rel=1e-3), kind
    classes = result["voxel_logits"].argmax(1)
    assert (ours.argmax(1) != classes).sum() == case.noise["argmax_disagree_fp64"]


def test_sparse_exact_running_statistics(sparse_exact: Run) -> None:
    if sparse_exact.mode == "eval":
        pytest.skip("running statistics move in training only")
    state = sparse_exact.network.state_dict()
    limit = sparse_exact.case.noise["bn_running_rel_worst"]
    for name, facts in sparse_exact.facts["bn_after"].items():
        for statistic in ("mean", "var"):
            norm = np.linalg.norm(as_array(state[f"{name}.running_{statistic}"]))
            recorded = facts[f"{statistic}_norm"]
            assert abs(norm - recorded) <= limit * recorded, (name, statistic)


def test_sparse_voxels_with_more_than_one_row(sparse_exact: Run) -> None:
    prepared = sparse_exact.prepared
    if not isinstance(prepared, PreparedPointVoxels):
        pytest.skip("this network has no point branch")
    crowded = int((points_per_voxel(prepared.cells[0]) > 1).sum())
    assert crowded == sparse_exact.case.noise["voxels_with_more_than_one_input_row"]
