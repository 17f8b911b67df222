"""One confusion matrix per corruption and severity, kept as soon as it is counted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pass2d.cache.schema import DatasetInfo
from pass2d.common.ahead import computed_ahead
from pass2d.common.errors import Pass2DError
from pass2d.common.files import writing
from pass2d.common.progress import Progress
from pass2d.common.work_record import WorkRecord
from pass2d.corruptions.registry import COLLECTION
from pass2d.models.network import Network
from pass2d.train.inference.logits import pass_size, vote_logits
from pass2d.train.inference.metric import (
    BAND_EDGES_M,
    Scores,
    allowed_scores,
    both_scores,
    count_pairs,
)
from pass2d.train.inference.scans import EvalScan, batches
from pass2d.train.inference.votes import VotePlan
from pass2d.train.robustness.robo3d import CLEAN, RobustScores, robust_scores
from pass2d.train.robustness.scans import ScanSet, names_digest

RECORD = "counts.jsonl"
"""The finished counts, in the folder of the report."""
PREDICTED = "predicted"
"""In place of `Outside`, of networks that see the points outside the volume."""
SAID_FAILURES = 5
"""Of one set, as they come up; the report counts them all."""


@dataclass(frozen=True, kw_only=True)
class SetResult:
    """Counts of one corruption at one severity."""

    corruption: str
    severity: str
    scans: int
    inside: NDArray[np.int64]
    """(C, C) of the points inside the volume: rows are labels, columns predictions."""
    outside: NDArray[np.int64]
    failed: tuple[str, ...]
    """Why scans were left out, one line each."""
    reused: bool
    """Counted by an earlier run."""

    def scores(self, info: DatasetInfo, *, sees_outside: bool) -> tuple[Scores, Scores]:
        """By the protocols `official` and `published`; see `metric.both_scores`."""
        return both_scores(self.inside, self.outside, info, sees_outside=sees_outside)


@dataclass(frozen=True, kw_only=True)
class RobustReport:
    """A checkpoint on a corruption set."""

    set_name: str
    """E.g. "SemanticKITTI-C (Robo3D)"; "pass2d-C" for what pass2d made itself."""
    info: DatasetInfo
    checkpoint: str
    votes: str
    outside: str
    results: tuple[SetResult, ...]
    clean_miou: float | None
    """`official` mIoU without corruption, if known."""
    clean_source: str
    """Where that comes from."""
    baseline: Mapping[str, float]
    """mIoU of Robo3D's baseline by corruption; {} when this set has others."""
    scores: RobustScores
    limit: int | None
    """Scans of each set at most; None: all."""

    @property
    def is_complete(self) -> bool:
        """Whether the scores may stand beside Robo3D's: of its own set, all of it."""
        is_theirs = self.set_name != COLLECTION
        return is_theirs and self.scores.is_complete and self.limit is None and not self.failed

    def scores_of(self, result: SetResult) -> tuple[Scores, Scores]:
        """By the protocols `official` and `published`."""
        return result.scores(self.info, sees_outside=self.outside == PREDICTED)

    @property
    def failed(self) -> tuple[str, ...]:
        """All scans that were left out."""
        return tuple(line for result in self.results for line in result.failed)


def evaluate_sets(
    network: Network,
    sets: Sequence[ScanSet],
    info: DatasetInfo,
    *,
    votes: VotePlan,
    job: dict[str, Any],
    folder: Path,
    progress: Progress,
) -> tuple[SetResult, ...]:
    """Count every set; what an earlier run of the same job has counted is taken from ``folder``.

    Args:
        network: On its device.
        sets: In the order of the report.
        info: Of the checkpoint.
        votes: Test-time augmentation.
        job: What the counts depend on (checkpoint, votes, outside): another job counts anew.
        folder: Where finished counts are kept.
        progress: Is told of every scan.
    """
    results = []
    with writing(folder):  # said before any work is done
        folder.mkdir(parents=True, exist_ok=True)
        record = WorkRecord(folder / RECORD, job)
    with closing(record):
        for chosen in sets:
            result = _counted(record, chosen, info.labels.n_classes)
            if result is None:
                result = _count(network, chosen, info, votes=votes, progress=progress)
                if not result.failed:
                    with writing(folder):
                        record.add(_title(chosen), _facts(result, chosen))
            else:
                progress.say(f"{_title(chosen)}: {result.scans} scans, counted by an earlier run")
            results.append(result)
    return tuple(results)


def report_of(
    results: Sequence[SetResult],
    info: DatasetInfo,
    *,
    set_name: str,
    checkpoint: Path,
    votes: VotePlan,
    outside: str,
    baseline: Mapping[str, float],
    clean_source: str,
    limit: int | None,
) -> RobustReport:
    """Put results and Robo3D's scores together.

    Args:
        results: Of `evaluate_sets`; a set "clean" among them is the score without corruption.
        info: Of the checkpoint.
        set_name: For the report.
        checkpoint: For the report.
        votes: For the report.
        outside: For the report.
        baseline: Of ``robust_scores``.
        clean_source: Where the set "clean" comes from.
        limit: For the report.
    """
    miou: dict[str, dict[str, float]] = {}
    for result in results:
        if result.scans:
            official = result.scores(info, sees_outside=outside == PREDICTED)[0].miou
            miou.setdefault(result.corruption, {})[result.severity] = official
    clean = next(iter(miou.pop(CLEAN, {}).values()), None)
    return RobustReport(
        set_name=set_name,
        info=info,
        checkpoint=str(checkpoint),
        votes=str(votes),
        outside=outside,
        results=tuple(results),
        clean_miou=clean,
        clean_source="" if clean is None else clean_source,
        baseline=baseline,
        scores=robust_scores(miou, clean=clean, baseline=baseline),
        limit=limit,
    )


def _count(
    network: Network, chosen: ScanSet, info: DatasetInfo, *, votes: VotePlan, progress: Progress
) -> SetResult:
    device = next(network.parameters()).device
    n_classes, size = info.labels.n_classes, pass_size(device)
    totals = torch.zeros((2, n_classes, n_classes), dtype=torch.int64, device=device)
    failed: list[str] = []
    done = 0

    def load(place: int) -> EvalScan | Pass2DError:
        try:
            return chosen.load(place)
        except Pass2DError as error:
            return error

    def sound() -> Iterator[EvalScan]:
        for loaded in computed_ahead(load, range(len(chosen.names))):
            if isinstance(loaded, Pass2DError):
                failed.append(str(loaded))
                if len(failed) <= SAID_FAILURES:
                    progress.say(str(loaded))
                progress.advance()
            else:
                yield loaded

    network.eval()
    progress.start(_title(chosen), total=len(chosen.names), unit="scans")
    for batch in batches(sound(), size):
        points = [scan.points.to(device, non_blocking=True) for scan in batch]
        plans = [votes.of(scan.scan_id) for scan in batch]
        for scan, logits in zip(batch, vote_logits(network, points, plans, size=size), strict=True):
            totals += _pairs(scan, allowed_scores(logits, info), n_classes)
        done += len(batch)
        progress.advance(len(batch))
    if len(failed) > SAID_FAILURES:
        progress.say(f"{_title(chosen)}: {len(failed):,} scans could not be used in all")
    counts = totals.cpu().numpy()
    return SetResult(
        corruption=chosen.corruption,
        severity=chosen.severity,
        scans=done,
        inside=counts[0],
        outside=counts[1],
        failed=tuple(failed),
        reused=False,
    )


def _pairs(scan: EvalScan, logits: torch.Tensor, n_classes: int) -> torch.Tensor:
    """(2, C, C) counts of a scan, inside and outside the volume."""
    predictions = logits.argmax(dim=1)
    n_others = len(scan.labels) - len(predictions)
    others = predictions.new_zeros(n_others)
    if scan.copied_from is not None:
        others = predictions[scan.copied_from.to(predictions.device)]
    # `group` counts range bands, first of the points inside, then of those outside.
    is_outside = (scan.group.to(predictions.device) > len(BAND_EDGES_M)).to(torch.uint8)
    return count_pairs(
        scan.labels.to(predictions.device),
        torch.cat([predictions, others]),
        n_classes=n_classes,
        group=is_outside,
        n_groups=2,
    )


def _title(chosen: ScanSet) -> str:
    return f"{chosen.corruption} {chosen.severity}".strip()


def _facts(result: SetResult, chosen: ScanSet) -> dict[str, Any]:
    return {
        "scan_names": names_digest(chosen.names),
        "scans": result.scans,
        "inside": result.inside.tolist(),
        "outside": result.outside.tolist(),
    }


def _counted(record: WorkRecord, chosen: ScanSet, n_classes: int) -> SetResult | None:
    """Counts of an earlier run; None when there are none, or none of these scans."""
    facts = record.parts.get(_title(chosen), {})
    if facts.get("scan_names") != names_digest(chosen.names):
        return None
    inside, outside = (np.array(facts[side], np.int64) for side in ("inside", "outside"))
    if inside.shape != (n_classes, n_classes) or outside.shape != inside.shape:
        return None
    return SetResult(
        corruption=chosen.corruption,
        severity=chosen.severity,
        scans=int(facts["scans"]),
        inside=inside,
        outside=outside,
        failed=(),
        reused=True,
    )
