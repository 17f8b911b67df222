"""The corrupted data sets that `pass2d prepare --corrupt` made beside a clean one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from pass2d.cache.datasets import find_dataset
from pass2d.cache.layout import DATASET_FILE, Layout
from pass2d.cache.manifest import parse_dataset
from pass2d.cache.reader import CacheReader
from pass2d.cache.schema import CorruptionInfo
from pass2d.common.errors import CacheError, ConfigError, DataError
from pass2d.common.files import read_whole
from pass2d.common.plain import require_known
from pass2d.common.progress import Progress, Silent
from pass2d.corruptions.registry import COLLECTION, benchmark_table
from pass2d.train.checkpoints.trained import TrainedNetwork, trained_network
from pass2d.train.data.positions import labelled_positions
from pass2d.train.evaluation.evaluate import fit_classes, require_same_data
from pass2d.train.inference.passes import OutsidePolicy
from pass2d.train.inference.scans import CachedScans
from pass2d.train.inference.votes import SINGLE_PASS, VotePlan
from pass2d.train.robustness.robo3d import CORRUPTIONS, SEVERITIES
from pass2d.train.robustness.run import RobustReport, RobustRun, SetResult
from pass2d.train.robustness.scans import cached_set, corruption_words


def robust_cache(
    checkpoint: Path | TrainedNetwork,
    cache_root: Path,
    out: Path,
    *,
    dataset: str | None = None,
    split: str = "val",
    corruptions: Sequence[str] | None = None,
    limit: int | None = None,
    votes: VotePlan = SINGLE_PASS,
    outside: OutsidePolicy = "nearest",
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> RobustReport:
    """Evaluate a checkpoint on a clean data set and on all that were made from it.

    Args:
        checkpoint: of the same classes and volume, or what was loaded of it.
        cache_root: folder of data sets.
        out: where finished counts are kept: an interrupted run continues.
        dataset: which clean data set, when there are several.
        split: whose labelled scans are evaluated.
        corruptions: only these.
        limit: at most this many scans of each, evenly spaced.
        votes: test-time augmentation.
        outside: see ``OutsidePolicy``.
        device: defaults to the GPU if there is one.
        progress: receives every scan.

    Raises:
        CheckpointError, CacheError: they cannot be read.
        ConfigError: no corrupted data sets there, or they do not fit the checkpoint.
    """
    progress = progress or Silent()
    clean = find_dataset(cache_root, dataset)
    corrupted = _chosen(corrupted_datasets(clean), corruptions, clean)
    trained = trained_network(checkpoint, device)
    run = RobustRun(
        trained=trained,
        folder=out,
        votes=votes,
        outside=outside,
        limit=limit,
        progress=progress,
        split=split,
    )
    results: list[SetResult] = []
    n_clean, clean_hashes = 0, dict[str, dict[str, str]]()
    for root in (clean, *(folder for folder, _ in corrupted)):
        with CacheReader.open(root) as reader:
            fit_classes(reader, trained.card)
            require_same_data(trained, reader.info)
            positions, _ = labelled_positions(reader, split)
            hashes = _source_hashes(reader, positions.tolist())
            if root == clean:
                n_clean, clean_hashes = len(positions), hashes
            _require_same_files(reader, hashes, clean_hashes)
            if root != clean and len(positions) != n_clean:
                progress.say(
                    f"{reader.info.name}: {len(positions)} labelled scans in {split}, the clean "
                    f"data set has {n_clean}: the means are over other scans"
                )
            cached = CachedScans(
                reader,
                trained.network,
                plans=(votes,),
                outside=outside,
                stack=trained.card.stack,
                # What hinders lattice votes is the same in all of them, and is said once.
                progress=progress if root == clean else Silent(),
            )
            results += run.count([cached_set(cached, positions, limit=limit)])
            cached.say_unhashed(progress)
    table = benchmark_table(trained.card.info)
    return run.report(
        results,
        set_name=COLLECTION,
        baseline={} if table is None else table.baseline_miou,
        clean_source="the clean data set",
    )


def _source_hashes(reader: CacheReader, positions: Sequence[int]) -> dict[str, dict[str, str]]:
    """Of the points and labels that scans were prepared from, by scan and role."""
    return {
        str(reader.scans.scan_id[position]): {
            file.role: file.xxh3
            for file in reader.sources(position)
            if file.role in {"points", "labels"}
        }
        for position in positions
    }


def _require_same_files(
    reader: CacheReader, hashes: dict[str, dict[str, str]], clean: dict[str, dict[str, str]]
) -> None:
    """Refuse a corrupted data set that was made from other files than the clean one.

    Raises:
        DataError: Naming a scan whose raw files changed between the two.
    """
    other = [scan for scan, files in hashes.items() if files != clean.get(scan, files)]
    if other:
        raise DataError(
            f"{reader.root}: {len(other)} of {len(hashes)} scans, e.g. {other[0]}, were made from "
            "other points or labels than the clean data set: the raw files changed in between. Run "
            "`prepare` with the same `corrupt` again."
        )


def corrupted_datasets(clean: Path) -> tuple[tuple[Path, CorruptionInfo], ...]:
    """The data sets beside a clean one that were made from it, in the order of Robo3D's tables.

    Raises:
        CacheError: a description cannot be read.
        ConfigError: the data set is a corrupted one itself.
    """
    own = _description(clean)
    if own is not None:
        raise ConfigError(
            f"{clean}: a corrupted data set ({own.collection}). Choose the clean one: "
            f"`dataset={own.clean}`."
        )
    found = []
    for file in sorted(clean.parent.glob(f"*/{DATASET_FILE}")):
        corruption = _description(file.parent)
        if corruption is not None and corruption.clean == clean.name:
            found.append((file.parent, corruption))
    return tuple(sorted(found, key=lambda item: _rank(item[1])))


def _chosen(
    found: Sequence[tuple[Path, CorruptionInfo]], wanted: Sequence[str] | None, clean: Path
) -> list[tuple[Path, CorruptionInfo]]:
    if not found:
        raise ConfigError(
            f"{clean.parent}: no corrupted data sets of {clean.name}. Make them, "
            "`prepare(corrupt=all)`, or evaluate a published set, `root`."
        )
    names = sorted({corruption.name for _, corruption in found})
    words = None if wanted is None else corruption_words(wanted)
    for word in words or ():
        require_known(word, names, where=f"`corruptions`: {clean.parent}", what="corruption")
    return [item for item in found if words is None or item[1].name in words]


def _description(root: Path) -> CorruptionInfo | None:
    layout = Layout(root=root)
    try:
        data = read_whole(layout.dataset_file)
    except OSError as error:
        raise CacheError(
            f"{layout.dataset_file}: cannot read ({error.strerror}). Run `repair`."
        ) from error
    return parse_dataset(data, where=str(layout.dataset_file)).corruption


def _rank(corruption: CorruptionInfo) -> tuple[int, int, str]:
    places = [
        order.index(word) if word in order else len(order)
        for order, word in ((CORRUPTIONS, corruption.name), (SEVERITIES, corruption.severity))
    ]
    return places[0], places[1], corruption.name
