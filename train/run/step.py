"""One optimizer step: forward, losses, backward, for all its batches and devices."""

from __future__ import annotations

import torch

from pass2d.common.errors import ConfigError
from pass2d.common.text import counted
from pass2d.models.network import Prepared
from pass2d.train.data.batch import RawBatch
from pass2d.train.data.stream import BatchStream
from pass2d.train.distributed.process_group import gather_names, sum_gradients
from pass2d.train.optim.losses import LossTerms, compute_loss
from pass2d.train.optim.optimizer import OutputWatch, first_nonfinite, guarded_step
from pass2d.train.optim.schedule import learning_rate
from pass2d.train.run.ahead import Batches, ReadyBatch, prepared_batch
from pass2d.train.run.assemble import Job
from pass2d.train.run.state import RunState

_REMEDY = (
    "Begin a new run with a lower optimizer.learning_rate or precision=float32; start_from=FILE "
    "takes over the weights of this run's checkpoints/best.safetensors, if there is one."
)
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def optimizer_step(job: Job, state: RunState, source: BatchStream | Batches) -> int:
    """Update the weights once.

    It waits for the device only to read the numbers of a batch's voxels.

    Each batch's loss is weighted by its share of the step's scans, over all devices and all its
    batches: a smaller last batch counts less.

    Args:
        job: of the run.
        state: moves on.
        source: gives the batches; a plain stream's are prepared when they are due.

    Returns:
        Scans of the step, on all devices.
    """
    job.network.train()
    batches = Batches(job, source, is_ahead=False) if isinstance(source, BatchStream) else source
    epoch_end = (state.cursor // job.n_scans + 1) * job.n_scans
    end = min(state.cursor + job.step_scans, epoch_end)
    scans = end - state.cursor
    while state.cursor < end:
        batch = batches.take()
        choose_sharers(job, scans=batch.cursor - state.cursor)
        if batch.raw is not None:
            backward(job, state, batch, share=len(batch.raw.positions) / scans)
        state.cursor = batch.cursor
        if state.cursor < end:
            batches.begin_next()
    sum_gradients([p for p in job.network.parameters() if p.requires_grad], job.group)
    if state.scaler is not None:
        state.scaler.unscale_(state.optimizer)
    state.skips = guarded_step(
        state.optimizer,
        state.skips,
        rate=rate_at(job, state, end - scans),
        clip_norm=job.recipe.optimizer.clip_norm,
    )
    if state.scaler is not None:
        state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    add_to_average(job, state)
    batches.begin_next()  # all work of this step is queued on the device
    return scans


def choose_sharers(job: Job, *, scans: int) -> None:
    """Processes that get none of an epoch's last scans do not share BatchNorm statistics."""
    if job.sharers is not None:
        job.sharers.choose(-(-scans // job.plan.batch_size))


def add_to_average(job: Job, state: RunState) -> None:
    """Add the current weights to the mean: EMA after each step, SWA after each late epoch."""
    config = job.recipe.average
    if state.average is None:
        return
    if config.kind == "ema":
        state.average.add(job.network, weight=1 - config.decay)
        return
    epoch, place = divmod(state.cursor, job.n_scans)
    if place == 0 and epoch > config.start_share * job.recipe.epochs:
        state.average.add(job.network, weight=1 / (state.average.count + 1))


def rate_at(job: Job, state: RunState, cursor: int) -> float:
    """The learning rate of the step that begins at a cursor."""
    return learning_rate(
        job.recipe.schedule,
        job.recipe.optimizer.learning_rate,
        step=job.step_at(cursor),
        length=job.length,
        val_miou=state.val_miou,
    )


def backward(job: Job, state: RunState, batch: ReadyBatch, *, share: float) -> None:
    """Add a batch's gradients, weighted with its share, and its losses to the totals."""
    assert batch.prepared is not None
    if job.group.device.type == "cuda":  # other batches may have been prepared since
        torch.manual_seed(batch.seed)
    terms = losses_of(job, batch.prepared)
    loss = terms.total * share
    (loss if state.scaler is None else state.scaler.scale(loss)).backward()
    state.totals.add({"loss": terms.total.detach(), **terms.parts}, share=share)


def forward(job: Job, raw: RawBatch, *, seed: int) -> LossTerms:
    """Augment a batch on the device and compute its losses."""
    return losses_of(job, prepared_batch(job, raw, seed=seed))


def losses_of(job: Job, prepared: Prepared) -> LossTerms:
    """The losses of a prepared batch on the device."""
    dtype = AUTOCAST.get(job.recipe.precision)
    with torch.autocast(job.group.device.type, dtype=dtype, enabled=dtype is not None):
        segmentation = job.network(prepared)
    return compute_loss(
        segmentation, prepared, config=job.recipe.loss, class_weights=job.class_weights
    )


def require_finite(job: Job, state: RunState, raw: RawBatch | None) -> None:
    """End the run when too many steps in a row were not finite.

    Raises:
        ConfigError: names the first module whose output is not finite, and what to change.
    """
    in_a_row, most = int(state.skips.in_a_row), job.recipe.optimizer.max_skipped
    if state.scaler is None:  # which finds its scale by skipping
        most = min(most, job.length.epochs * job.length.steps_per_epoch)
    if in_a_row < most:
        return
    found = first_nonfinite_value(job, raw)
    raise ConfigError(
        f"{counted(in_a_row, 'step')} in a row had gradients that are not finite; the first value "
        f"that is not: {found or 'none in the last batch'}. {_REMEDY}"
    )


def require_finite_network(job: Job) -> None:
    """End the run when the network in use has diverged: its scores would be those of no class.

    Raises:
        ConfigError: names tensors that are not finite, and what to change.
    """
    tensors = job.network.inference_state()
    bad = sorted(name for name, tensor in tensors.items() if not tensor.isfinite().all())
    if bad:
        raise ConfigError(
            f"{len(bad)} of {len(tensors)} tensors of the network contain NaN or infinity "
            f"({', '.join(bad[:3])}): the training has diverged. {_REMEDY}"
        )


def first_nonfinite_value(job: Job, raw: RawBatch | None) -> str:
    """The first value of a batch that is not finite, in any process; "" when all are."""
    found = ""
    terms: LossTerms | None = None
    if raw is not None:
        watch = OutputWatch(job.network)
        terms = forward(job, raw, seed=0)
        watch.close()
        found = f"output of module {watch.first_nonfinite}" if watch.first_nonfinite else ""
    if found := _first_of_group(found, job):
        return found
    if terms is not None:
        terms.total.backward()
        found = "loss" if not torch.isfinite(terms.total) else first_nonfinite(job.network) or ""
    return _first_of_group(found, job)


def _first_of_group(found: str, job: Job) -> str:
    if job.group.world == 1:
        return found
    return next((name for names in gather_names([found]) for name in names if name), "")
