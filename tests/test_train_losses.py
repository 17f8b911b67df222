"""Losses against plain versions, with counts, and where there is nothing to count."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pass2d.common.errors import DataError
from pass2d.models.network import Prepared, Segmentation, Targets
from pass2d.train.optim.losses import (
    HeadLogits,
    LossConfig,
    compute_loss,
    fused_divergence,
    lovasz_softmax,
    segmentation_losses,
)

N_CLASSES = 7


def plain_lovasz(probs: Tensor, labels: Tensor) -> Tensor:
    """Class by class, as Berman et al. write it."""
    probs, labels = probs[labels != 0], labels[labels != 0]
    losses = []
    for c in range(probs.shape[1]):
        hit = (labels == c).to(probs.dtype)
        if hit.sum() == 0:
            continue
        errors, order = torch.sort((hit - probs[:, c]).abs(), descending=True)
        hit = hit[order]
        jaccard = 1 - (hit.sum() - hit.cumsum(0)) / (hit.sum() + (1 - hit).cumsum(0))
        steps = torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])
        losses.append((errors * steps).sum())
    return torch.stack(losses).mean()


def losses_of_one(
    logits: Tensor, targets: Targets, weights: Tensor | None = None, *, smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    (ce,), (lovasz,) = segmentation_losses(
        [HeadLogits(logits, targets)], weights, smoothing=smoothing
    )
    return ce, lovasz


def made_up(
    seed: int, rows: int = 300, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, N_CLASSES, generator=generator, dtype=dtype) * 3
    labels = torch.randint(
        N_CLASSES - seed % 3, (rows,), generator=generator
    )  # some classes absent
    return logits.requires_grad_(), labels


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_and_gradients_equal_the_plain_ones(seed: int, dtype: torch.dtype) -> None:
    logits, labels = made_up(seed, dtype=dtype)
    weights = torch.linspace(1, 2, N_CLASSES, dtype=dtype)
    weights[0] = float("inf")  # as the published buffers have it
    ours = losses_of_one(logits, Targets(label=labels), weights)
    known = weights.nan_to_num(posinf=0)
    plain = (
        functional.cross_entropy(logits, labels, weight=known, ignore_index=0),
        plain_lovasz(functional.softmax(logits, dim=1), labels),
    )
    for our_loss, plain_loss in zip(ours, plain, strict=True):
        torch.testing.assert_close(our_loss, plain_loss)
        (our_gradient,) = torch.autograd.grad(our_loss, logits, retain_graph=True)
        (plain_gradient,) = torch.autograd.grad(plain_loss, logits, retain_graph=True)
        torch.testing.assert_close(our_gradient, plain_gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("seed", range(4))
def test_counted_rows_equal_their_repetition(seed: int) -> None:
    logits, _ = made_up(seed, rows=40)
    generator = torch.Generator().manual_seed(seed)
    row_of_point = torch.randint(40, (600,), generator=generator)
    labels = torch.randint(N_CLASSES, (600,), generator=generator)
    pairs, count = torch.unique(torch.stack([row_of_point, labels], 1), dim=0, return_counts=True)
    counted = Targets(row=pairs[:, 0], label=pairs[:, 1], count=count.to(torch.float32))
    repeated = Targets(row=row_of_point, label=labels)
    for ours, expected in zip(
        losses_of_one(logits, counted), losses_of_one(logits, repeated), strict=True
    ):
        torch.testing.assert_close(ours, expected)
        torch.testing.assert_close(
            torch.autograd.grad(ours, logits, retain_graph=True),
            torch.autograd.grad(expected, logits, retain_graph=True),
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_of_several_heads_are_those_of_each(dtype: torch.dtype) -> None:
    answers = []
    for seed, rows in enumerate((300, 0, 40, 40, 1)):
        logits, labels = made_up(seed, rows=rows, dtype=dtype)
        answers.append(HeadLogits(logits, Targets(label=labels)))
    logits, labels = made_up(7, rows=60, dtype=dtype)
    row = torch.arange(60).repeat(2)
    count = torch.arange(120).to(torch.float32)
    answers.insert(2, HeadLogits(logits, Targets(label=labels.repeat(2), row=row, count=count)))
    answers.append(HeadLogits(logits.detach().requires_grad_(), Targets(label=labels * 0)))
    weights = torch.linspace(1, 2, N_CLASSES, dtype=dtype)
    together = segmentation_losses(answers, weights, smoothing=0.1)
    each = [losses_of_one(*answer, weights, smoothing=0.1) for answer in answers]
    for ours, single in zip(together, zip(*each, strict=True), strict=True):
        torch.testing.assert_close(ours, torch.stack(single))
        assert ours[1] == ours[-1] == 0
        for (logits, _), our_loss, single_loss in zip(answers, ours, single, strict=True):
            torch.testing.assert_close(
                torch.autograd.grad(our_loss, logits, retain_graph=True),
                torch.autograd.grad(single_loss, logits, retain_graph=True),
            )


def test_lovasz_of_one_point_by_hand() -> None:
    probs = torch.tensor([[0.1, 0.6, 0.3]], requires_grad=True)
    loss = lovasz_softmax(probs, torch.tensor([2]), torch.ones(1))
    loss.backward()
    assert loss.item() == pytest.approx(1 - 0.3)  # one class present: its error
    assert probs.grad is not None
    assert probs.grad.tolist() == [[0.0, 0.0, -1.0]]


def test_lovasz_of_two_points_by_hand() -> None:
    # Class 1: errors 0.6 (its point) and 0.2 (the other); Jaccard 1 after the first, 1 after both.
    # Class 2: errors 0.7 (its point) and 0.5; likewise.
    probs = torch.tensor([[0.1, 0.4, 0.5], [0.5, 0.2, 0.3]])
    loss = lovasz_softmax(probs, torch.tensor([1, 2]), torch.ones(2))
    assert loss.item() == pytest.approx((0.6 + 0.7) / 2)


@pytest.mark.parametrize("rows", [0, 1, 50])
def test_nothing_labelled_is_zero_with_zero_gradient(rows: int) -> None:
    logits = torch.randn(rows, N_CLASSES, requires_grad=True)
    labels = torch.zeros(rows, dtype=torch.int64)
    for loss in losses_of_one(logits, Targets(label=labels), torch.ones(N_CLASSES)):
        assert loss.item() == 0
        (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
        assert torch.equal(gradient, torch.zeros_like(logits))


def test_divergence_is_the_mean_over_all_elements_and_moves_one_side() -> None:
    ours, _ = made_up(1)
    fused, _ = made_up(2)
    loss = fused_divergence(ours, fused)
    p, q = functional.softmax(fused, dim=1), functional.softmax(ours, dim=1)
    torch.testing.assert_close(loss, (p * (p / q).log()).mean())
    loss.backward()
    assert ours.grad is not None
    assert fused.grad is None
    empty = torch.zeros(0, N_CLASSES, requires_grad=True)
    assert fused_divergence(empty, empty).item() == 0


def test_half_precision_logits_are_compared_in_float32() -> None:
    logits, labels = made_up(3, dtype=torch.float32)
    rough = logits.detach().to(torch.bfloat16)
    for ours, exact in zip(
        losses_of_one(rough, Targets(label=labels)),
        losses_of_one(rough.float(), Targets(label=labels)),
        strict=True,
    ):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, exact)


def test_total_of_a_network_without_images_is_the_main_loss() -> None:
    logits, labels = made_up(4)
    rows = torch.arange(len(labels))
    prepared = Prepared(row_of_point=rows, targets=Targets(label=labels))
    answer = Segmentation(row_logits=logits, row_of_point=rows)
    loss = compute_loss(answer, prepared, config=LossConfig(lambda_lovasz=0.5))
    torch.testing.assert_close(loss.total, loss.parts["main_ce"] + 0.5 * loss.parts["main_lovasz"])
    assert set(loss.parts) == {"main_ce", "main_lovasz"}
    with pytest.raises(DataError, match="no labels"):
        compute_loss(answer, Prepared(row_of_point=rows, targets=None), config=LossConfig())


def test_negative_factors_are_refused() -> None:
    with pytest.raises(ValueError, match="lambda_xm must not be negative"):
        LossConfig(lambda_xm=-0.1)


@pytest.mark.parametrize("is_weighted", [False, True])
def test_smoothed_labels_are_those_of_torch_without_the_ignored_class(is_weighted: bool) -> None:
    rng = torch.Generator().manual_seed(3)
    logits = torch.randn(50, N_CLASSES, generator=rng, dtype=torch.float64)
    logits[:, 0] = -1e9  # of the ignored class: it takes part in no softmax
    labels = torch.randint(0, N_CLASSES, (50,), generator=rng)
    weights = torch.rand(N_CLASSES, generator=rng, dtype=torch.float64) if is_weighted else None
    ours, _ = losses_of_one(logits, Targets(label=labels), weights, smoothing=0.1)
    theirs = functional.cross_entropy(
        logits[:, 1:],
        labels - 1,
        weight=None if weights is None else weights[1:],
        ignore_index=-1,
        label_smoothing=0.1,
    )
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-9)


def test_smoothing_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="label_smoothing"):
        LossConfig(label_smoothing=1.0)
