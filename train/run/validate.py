"""Validation during a run, and the export of its best networks."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from pass2d.common.progress import Progress
from pass2d.train.checkpoints.card import Card
from pass2d.train.checkpoints.checkpoint import network_tensors, save_checkpoint
from pass2d.train.checkpoints.runs import RunFolder
from pass2d.train.data.stream import BatchStream
from pass2d.train.distributed.process_group import any_process, share_buffers, sum_over_group
from pass2d.train.evaluation.counts import EvalCounts
from pass2d.train.evaluation.evaluate import evaluate_network
from pass2d.train.inference.metric import Scores
from pass2d.train.run.assemble import Job
from pass2d.train.run.journal import Journal
from pass2d.train.run.state import RunState
from pass2d.train.run.step import choose_sharers, forward, require_finite_network
from pass2d.train.run.stop import StopRequest


def is_due(job: Job, state: RunState) -> bool:
    """Whether the epoch that has just ended is to be validated and was not."""
    every = job.recipe.validation.every_epochs
    epoch, place = divmod(state.cursor, job.n_scans)
    if place or epoch == 0 or not every or not len(job.val_positions):
        return False
    is_last = epoch == job.recipe.epochs
    return epoch not in state.validated and (epoch % every == 0 or is_last)


def validate(
    job: Job,
    state: RunState,
    *,
    folder: RunFolder,
    journal: Journal | None,
    card: Card,
    progress: Progress,
    stop: StopRequest,
) -> bool:
    """Evaluate the network (or its averaged weights), log both protocols, keep the best.

    Args:
        job: of the run.
        state: its lists of validations grow by one.
        folder: where the best network goes.
        journal: of the first process; None in others.
        card: what every checkpoint of the run says.
        progress: receives every scan.
        stop: a signal to any process cuts it short in all.

    Returns:
        False if it was cut short; then nothing has changed.

    Raises:
        ConfigError: the network's values are not finite.
    """
    share_buffers(job.network, job.group)
    if not refresh_average(job, state, stop):
        return False
    with averaged(job, state):
        require_finite_network(job)
        counts: EvalCounts | None = None
        with stop.at_once():
            counts = evaluate_network(
                job.network,
                job.reader,
                job.val_positions,
                group=job.group,
                progress=progress,
                stack=job.recipe.stack,
            )
        if any_process(counts is None, job.group):
            return False
        assert counts is not None
        sum_over_group([counts.total], job.group)
        scores = counts.scores(job.reader.info)
        best_tensors = network_tensors(
            {k: v.clone() for k, v in job.network.inference_state().items()}
        )
    by_name = {item.protocol: item for item in scores}
    epoch = state.cursor // job.n_scans
    miou = by_name[job.recipe.validation.protocol].miou
    is_best = not state.val_miou or miou > max(state.val_miou) or not folder.best.exists()
    state.validated.append(epoch)
    state.val_miou.append(miou)
    if journal is None:
        return True
    log_scores(job, state, scores, journal, is_best=is_best)
    metrics = {"epoch": float(epoch)}
    for item in scores:
        metrics[f"val/miou_{item.protocol}"] = item.miou
        metrics[f"val/accuracy_{item.protocol}"] = item.accuracy
    export(job, state, best_tensors, folder=folder, card=card, metrics=metrics, is_best=is_best)
    return True


def log_scores(
    job: Job, state: RunState, scores: tuple[Scores, ...], journal: Journal, *, is_best: bool
) -> None:
    """Write a validation into the log."""
    names = job.reader.info.labels.names
    epoch = state.validated[-1]
    record: dict[str, object] = {"epoch": epoch, "epochs_done": epoch}
    for item in scores:
        record[f"miou_{item.protocol}"] = item.miou
        record[f"accuracy_{item.protocol}"] = item.accuracy
    for item in scores:
        if item.protocol == job.recipe.validation.protocol:
            values = {name: float(item.iou[c]) for c, name in enumerate(names) if c}
            record["iou"] = {name: v if v == v else None for name, v in values.items()}  # noqa: PLR0124  # NaN
    journal.write("val", job.step_at(state.cursor), record)
    both = ", ".join(f"{item.miou:.2%} ({item.protocol})" for item in scores)
    journal.say(f"epoch {epoch}: validation mIoU {both}{', the best so far' if is_best else ''}")


def export(
    job: Job,
    state: RunState,
    tensors: dict[str, Tensor],
    *,
    folder: RunFolder,
    card: Card,
    metrics: dict[str, float],
    is_best: bool,
) -> None:
    """Write the network for inference if it is among the best; remove the one that no longer is."""
    ready = Card(**{**vars(card), "metrics": metrics})
    if is_best:
        save_checkpoint(folder.best, tensors, ready)
    keep = job.recipe.validation.keep_best
    if keep < 2:
        return
    order = sorted(range(len(state.val_miou)), key=lambda i: (-state.val_miou[i], i))
    kept = {state.validated[i] for i in order[:keep]}
    if state.validated[-1] in kept:
        save_checkpoint(folder.ranked(state.validated[-1]), tensors, ready)
    for epoch in set(state.validated) - kept:
        folder.ranked(epoch).unlink(missing_ok=True)


def averaged(job: Job, state: RunState) -> AbstractContextManager[None]:
    """Inside the block, the network has its averaged weights, if the run has any yet."""
    if state.average is None or not state.average.count:
        return nullcontext()
    return state.average.swapped_in(job.network)


def refresh_average(job: Job, state: RunState, stop: StopRequest) -> bool:
    """Make averaged weights ready for use; all processes call it.

    Returns:
        False if a signal cut it short; then nothing has changed.
    """
    if state.average is None or not state.average.count or job.recipe.average.kind != "swa":
        return True
    return refresh_norms(job, state, stop)


def refresh_norms(job: Job, state: RunState, stop: StopRequest) -> bool:
    """Estimate the BatchNorm statistics of the mean weights again, on training batches.

    The mean of several networks' running statistics is not that of the mean network's activations.

    Returns:
        False if a signal cut it short; then nothing has changed.
    """
    assert state.average is not None
    norms = [m for m in job.network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    stream = BatchStream(
        job.reader, job.plan, job.recipe.stream, cursor=state.cursor, device=job.group.device
    )
    job.network.train()
    try:
        with state.average.swapped_in(job.network), torch.no_grad():
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # a plain mean over the batches
            for index in range(min(job.recipe.average.norm_batches, job.plan.batches_per_epoch)):
                if any_process(bool(stop), job.group):
                    return False
                before = stream.cursor
                raw = next(stream)
                choose_sharers(job, scans=stream.cursor - before)
                if raw is not None:
                    forward(job, raw, seed=index)
            share_buffers(job.network, job.group)
            state.average.set_buffers(job.network)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        stream.close()
    return True
