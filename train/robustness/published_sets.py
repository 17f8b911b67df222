"""The published corruption sets, as they were downloaded."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import torch

from pass2d.cache.keys import hash_file
from pass2d.cache.reader import CacheReader
from pass2d.common.errors import DataError
from pass2d.common.progress import Progress, Silent
from pass2d.train.checkpoints.checkpoint import network_from_checkpoint
from pass2d.train.data.positions import labelled_positions
from pass2d.train.distributed.process_group import choose_device
from pass2d.train.evaluation.evaluate import require_same_data
from pass2d.train.inference.logits import Outside
from pass2d.train.inference.votes import NO_VOTES, VotePlan
from pass2d.train.robustness.folders import YAN, find_corrupted, set_name
from pass2d.train.robustness.robo3d import BASELINE_MIOU, CLEAN
from pass2d.train.robustness.run import PREDICTED, RobustReport, evaluate_sets, report_of
from pass2d.train.robustness.scans import (
    ScanSet,
    cached_set,
    clean_files,
    folder_sets,
    require_sets,
)

CLEAN_SPLIT = "val"
"""The corruption sets are made of the validation scans."""


def robust_folders(
    checkpoint: Path,
    root: Path,
    out: Path,
    *,
    clean: Path | str | None = None,
    dataset: str | None = None,
    corruptions: Sequence[str] | None = None,
    limit: int | None = None,
    votes: VotePlan = NO_VOTES,
    outside: Outside = "nearest",
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> RobustReport:
    """Evaluate a checkpoint on a published set.

    Args:
        checkpoint: It carries label table and volume.
        root: The set's folder.
        out: Where finished counts are kept: an interrupted run goes on.
        clean: Prepared cache of the clean data set.
        dataset: Which data set of that cache.
        corruptions: Only these.
        limit: At most so many scans of each.
        votes: Test-time augmentation.
        outside: What points outside the volume are given.
        device: The GPU if there is one, without.
        progress: Is told of every scan.

    Raises:
        CheckpointError, CacheError: They cannot be read.
        DataError: The folder is no such set, or not one scan of it could be used.
    """
    progress = progress or Silent()
    folders = find_corrupted(root)
    network, card = network_from_checkpoint(checkpoint, device or choose_device("auto"))
    job = {
        "checkpoint": hash_file(checkpoint),
        "votes": [str(votes), votes.seed],
        "outside": outside,
        "version": 1,
    }
    files, own = None, tuple[ScanSet, ...]()
    with contextlib.ExitStack() as stack:
        if clean is not None:
            reader = stack.enter_context(CacheReader.open(clean, dataset=dataset))
            require_same_data(card, reader.info, checkpoint=checkpoint)
            files = clean_files(reader, split=CLEAN_SPLIT)
            if not any(folder.corruption == CLEAN for folder in folders):
                positions, _ = labelled_positions(reader, CLEAN_SPLIT)
                own = (
                    cached_set(
                        reader,
                        positions,
                        uses_volume=network.uses_volume,
                        outside=outside,
                        limit=limit,
                    ),
                )
        downloaded = folder_sets(
            folders,
            card.info,
            uses_volume=network.uses_volume,
            outside=outside,
            clean=files,
            limit=limit,
        )
        results = evaluate_sets(
            network,
            require_sets((*own, *downloaded), corruptions),
            card.info,
            votes=votes,
            job=job,
            folder=out,
            progress=progress,
        )
    if not any(result.scans for result in results[len(own) :]):
        reason = next((line for result in results for line in result.failed), "no scans")
        raise DataError(f"{root}: not one scan could be used: {reason}")
    name = set_name(folders, layout=card.info.layout)
    return report_of(
        results,
        card.info,
        set_name=name,
        checkpoint=checkpoint,
        votes=votes,
        outside=outside if network.uses_volume else PREDICTED,
        baseline={} if name == YAN else BASELINE_MIOU[card.info.layout],
        clean_source=f"split {CLEAN_SPLIT} of {clean}" if own else "the set's own clean scans",
        limit=limit,
    )
