"""The published corruption sets, as they were downloaded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from pass2d.cache.reader import CacheReader
from pass2d.common.errors import ConfigError, DataError
from pass2d.common.progress import Progress, Silent
from pass2d.corruptions.registry import benchmark_table
from pass2d.points.binary import BinaryOptions
from pass2d.train.checkpoints.trained import TrainedNetwork, trained_network
from pass2d.train.data.positions import labelled_positions
from pass2d.train.evaluation.evaluate import fit_classes, require_same_data
from pass2d.train.inference.passes import OutsidePolicy
from pass2d.train.inference.scans import CachedScans, is_on_cpu
from pass2d.train.inference.votes import SINGLE_PASS, VotePlan
from pass2d.train.robustness.folders import (
    YAN,
    CorruptedFolder,
    find_corrupted,
    set_name,
    unknown_single,
)
from pass2d.train.robustness.robo3d import CLEAN
from pass2d.train.robustness.run import RobustReport, RobustRun
from pass2d.train.robustness.scans import (
    ScanSet,
    cached_set,
    clean_files,
    folder_set,
    require_sets,
)

CLEAN_SPLIT = "val"
"""The corruption sets are made of the validation scans."""


def robust_folders(
    checkpoint: Path | TrainedNetwork,
    root: Path,
    out: Path,
    *,
    clean: Path | str | None = None,
    dataset: str | None = None,
    corruptions: Sequence[str] | None = None,
    limit: int | None = None,
    votes: VotePlan = SINGLE_PASS,
    outside: OutsidePolicy = "nearest",
    columns: int | None = None,
    dtype: str | None = None,
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> RobustReport:
    """Evaluate a checkpoint on a published set.

    Args:
        checkpoint: A file with label table and volume, or one that is loaded already.
        root: The set's folder.
        out: Where finished counts are kept: an interrupted run continues.
        clean: Prepared cache of the clean data set.
        dataset: Which data set of that cache.
        corruptions: Only these.
        limit: At most this many scans of each.
        votes: Test-time augmentation.
        outside: See ``OutsidePolicy``.
        columns: Numbers per point of the ``.bin`` files; detected if None.
        dtype: Of their numbers, key of `cache.clouds.columns.DTYPES`; detected if None.
        device: Defaults to the GPU if there is one.
        progress: Receives every scan.

    Raises:
        CheckpointError, CacheError: They cannot be read.
        DataError: The folder is not such a set, or none of its scans could be used.
    """
    folders = find_corrupted(root)
    if name := unknown_single(folders, root):
        (progress or Silent()).say(
            f"{root}: no folder for each corruption in it; all its scans count as the corruption "
            f"{name!r}. Is it a corrupted set?"
        )
    trained = trained_network(checkpoint, device)
    info = trained.card.info
    layout = None
    if columns is not None or dtype is not None:
        layout = BinaryOptions(usual=info.raw_columns, columns=columns, dtype=dtype, is_asked=True)
    run = RobustRun(
        trained=trained,
        folder=out,
        votes=votes,
        outside=outside,
        limit=limit,
        layout=layout,
        progress=progress or Silent(),
    )
    if trained.card.stack.past:
        raise ConfigError(
            f"{trained.source}: trained on {trained.card.stack.past + 1} scans together, but the "
            "published sets are of single scans without poses. Prepare corrupted data sets "
            "(`prepare` with `corrupt`) and give their cache."
        )
    files, own, n_clean = None, tuple[ScanSet, ...](), 0
    with contextlib.ExitStack() as stack:
        if clean is not None:
            reader = stack.enter_context(CacheReader.open(clean, dataset=dataset))
            fit_classes(reader, trained.card)
            require_same_data(trained, reader.info)
            files = clean_files(reader, split=CLEAN_SPLIT)
            if not any(folder.corruption == CLEAN for folder in folders):
                cached = CachedScans(
                    reader,
                    trained.network,
                    plans=(votes,),
                    outside=outside,
                    progress=run.progress,
                )
                positions, _ = labelled_positions(reader, CLEAN_SPLIT)
                own, n_clean = (cached_set(cached, positions, limit=limit),), len(positions)
        for line in _of_other_scans(folders, n_clean):
            run.progress.say(line)
        downloaded = [
            folder_set(
                folder,
                info,
                uses_volume=run.uses_volume,
                outside=outside,
                finds_nearest=is_on_cpu(run.trained.network),
                clean=files,
                limit=limit,
                layout=layout,
            )
            for folder in folders
        ]
        results = run.count(require_sets((*own, *downloaded), corruptions))
    if not any(result.scans for result in results[len(own) :]):
        reason = next((line for result in results for line in result.failed), "no scans")
        raise DataError(f"{root}: none of its scans could be used: {reason}")
    name = set_name(folders, title=info.facts.title)
    table = benchmark_table(info)
    return run.report(
        results,
        set_name=name,
        baseline={} if name == YAN or table is None else table.baseline_miou,
        clean_source=f"split {CLEAN_SPLIT} of {clean}" if own else "the set's own clean scans",
    )


def _of_other_scans(folders: Sequence[CorruptedFolder], n_clean: int) -> Iterator[str]:
    """Warnings of folders with fewer scans than others: their scores are not of the same scans."""
    most = max(n_clean, *(len(folder.scans) for folder in folders))
    for folder in folders:
        if len(folder.scans) < most:
            place = folder.scans[0].points.parent if folder.scans else folder.corruption
            yield (
                f"warning: {place}: found {len(folder.scans):,} of {most:,} scans. Scores over "
                "different scans do not compare: download the folder again."
            )
