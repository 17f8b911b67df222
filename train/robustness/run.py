"""One confusion matrix per corruption and severity, each saved as soon as it is complete."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import astuple, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pass2d.cache.keys import hash_file
from pass2d.cache.schema import DatasetInfo
from pass2d.common.errors import Pass2DError
from pass2d.common.files import writing
from pass2d.common.progress import Progress
from pass2d.common.work_record import WorkRecord
from pass2d.corruptions.registry import COLLECTION
from pass2d.points.binary import BinaryOptions
from pass2d.train.checkpoints.trained import TrainedNetwork
from pass2d.train.evaluation.evaluate import count_scan
from pass2d.train.inference.labels import label_scans
from pass2d.train.inference.metric import Scores, both_scores
from pass2d.train.inference.passes import OutsidePolicy
from pass2d.train.inference.scans import EvalScan
from pass2d.train.inference.tasks import Task, n_counted, without_motion
from pass2d.train.inference.votes import VotePlan
from pass2d.train.robustness.robo3d import CLEAN, RobustScores, robust_scores
from pass2d.train.robustness.scans import ScanSet, names_digest

RECORD = "counts.jsonl"
"""The finished counts, in the folder of the report."""
PREDICTED = "predicted"
"""In place of `OutsidePolicy`, of networks that see the points outside the volume."""
SAID_FAILURES = 5
"""Of one set, as they come up; the report counts them all."""


@dataclass(frozen=True, kw_only=True)
class Unusable:
    """In place of a scan whose files cannot be used."""

    reason: str
    scan: None = None


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
        """Whether the scores are comparable with Robo3D's: on its own set, and complete."""
        is_theirs = self.set_name != COLLECTION
        return is_theirs and self.scores.is_complete and self.limit is None and not self.failed

    def scores_of(self, result: SetResult) -> tuple[Scores, Scores]:
        """By the protocols `official` and `published`."""
        return result.scores(self.info, sees_outside=self.outside == PREDICTED)

    @property
    def failed(self) -> tuple[str, ...]:
        """All scans that were left out."""
        return tuple(line for result in self.results for line in result.failed)


@dataclass(frozen=True, kw_only=True)
class RobustRun:
    """One network on corruption sets: how it is run, and where finished counts are kept."""

    trained: TrainedNetwork
    folder: Path
    """Counts of an earlier run of the same job (checkpoint, votes, outside) are taken from here."""
    votes: VotePlan
    outside: OutsidePolicy
    limit: int | None
    """At most so many scans of each set, spread evenly."""
    progress: Progress
    """Receives every scan."""
    split: str | None = None
    """Of a prepared data set, whose scans are counted."""
    layout: BinaryOptions | None = None
    """How ``.bin`` files are read, if it is given."""

    @property
    def uses_volume(self) -> bool:
        """Whether the network sees only the points inside the volume."""
        return self.trained.network.uses_volume

    @cached_property
    def task(self) -> Task:
        """What is scored: classes without motion, those of the sets and of their baselines."""
        return without_motion(self.trained.card.info)

    @cached_property
    def job(self) -> dict[str, Any]:
        """What the counts depend on, besides the scans."""
        return {
            "checkpoint": hash_file(self.trained.source),
            "votes": [str(self.votes), self.votes.seed],
            "outside": self.outside,
            **({} if self.split is None else {"split": self.split}),
            **({} if self.layout is None else {"layout": list(astuple(self.layout))}),
            "version": 1,
        }

    def count(self, sets: Sequence[ScanSet]) -> tuple[SetResult, ...]:
        """Count every set, in the order given; finished counts are kept at once."""
        results = []
        with writing(self.folder):  # said before any work is done
            self.folder.mkdir(parents=True, exist_ok=True)
            record = WorkRecord(self.folder / RECORD, self.job)
        with closing(record):
            for chosen in sets:
                result = _counted(record, chosen, self.task.n_classes)
                if result is None:
                    result = self._count(chosen)
                    if not result.failed:
                        with writing(self.folder):
                            record.add(chosen.title, _facts(result, chosen))
                else:
                    self.progress.say(
                        f"{chosen.title}: {result.scans} scans, counted by an earlier run"
                    )
                results.append(result)
        return tuple(results)

    def report(
        self,
        results: Sequence[SetResult],
        *,
        set_name: str,
        baseline: Mapping[str, float],
        clean_source: str,
    ) -> RobustReport:
        """Put results and Robo3D's scores together.

        Args:
            results: Of `count`; a set "clean" among them is the score without corruption.
            set_name: For the report.
            baseline: Of ``robust_scores``.
            clean_source: Where the set "clean" comes from.
        """
        info = replace(self.trained.card.info, labels=self.task.labels)
        miou = dict[str, dict[str, float]]()
        for result in results:
            if result.scans:
                official = result.scores(info, sees_outside=not self.uses_volume)[0].miou
                miou.setdefault(result.corruption, {})[result.severity] = official
        clean = next(iter(miou.pop(CLEAN, {}).values()), None)
        return RobustReport(
            set_name=set_name,
            info=info,
            checkpoint=str(self.trained.source),
            votes=str(self.votes),
            outside=self.outside if self.uses_volume else PREDICTED,
            results=tuple(results),
            clean_miou=clean,
            clean_source="" if clean is None else clean_source,
            baseline=baseline,
            scores=robust_scores(miou, clean=clean, baseline=baseline),
            limit=self.limit,
        )

    def _count(self, chosen: ScanSet) -> SetResult:
        network, info, progress = self.trained.network, self.trained.card.info, self.progress
        n_ids = n_counted(info)
        totals = torch.zeros((2, n_ids, n_ids), dtype=torch.int64, device=self.trained.device)
        failed: list[str] = []

        def load(place: int) -> EvalScan | Unusable:
            try:
                return chosen.load(place)
            except Pass2DError as error:
                return Unusable(reason=str(error))

        places = range(len(chosen.names))
        progress.start(chosen.title, total=len(places), unit="scans")
        for found in label_scans(network, places, load, info=info, plans=(self.votes,)):
            scan = found.item
            if isinstance(scan, Unusable):
                failed.append(scan.reason)
                if len(failed) <= SAID_FAILURES:
                    progress.say(scan.reason)
            else:
                bands = count_scan(scan, found.passes[0].labels, n_ids)
                totals += bands.view(2, -1, n_ids, n_ids).sum(dim=1)
            progress.advance()
        if len(failed) > SAID_FAILURES:
            progress.say(f"{chosen.title}: {len(failed):,} scans could not be used in all")
        counts = self.task.folded(totals.cpu().numpy())
        return SetResult(
            corruption=chosen.corruption,
            severity=chosen.severity,
            scans=len(places) - len(failed),
            inside=counts[0],
            outside=counts[1],
            failed=tuple(failed),
            reused=False,
        )


def _facts(result: SetResult, chosen: ScanSet) -> dict[str, Any]:
    return {
        "scan_names": names_digest(chosen.names),
        "scans": result.scans,
        "inside": result.inside.tolist(),
        "outside": result.outside.tolist(),
    }


def _counted(record: WorkRecord, chosen: ScanSet, n_classes: int) -> SetResult | None:
    """Counts of an earlier run; None when there are none, or none of these scans."""
    facts = record.parts.get(chosen.title, {})
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
