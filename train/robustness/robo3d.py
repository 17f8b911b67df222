"""Robo3D's numbers: eight corruptions, three severities, its two scores.

Source: Kong et al., "Robo3D" (ICCV 2023) and the tables of its repository.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CORRUPTIONS = (
    "fog",
    "wet_ground",
    "snow",
    "motion_blur",
    "beam_missing",
    "crosstalk",
    "incomplete_echo",
    "cross_sensor",
)
SEVERITIES = ("light", "moderate", "heavy")
CLEAN = "clean"


@dataclass(frozen=True, kw_only=True)
class RobustScores:
    """Both scores, as shares: 1.0614 is Robo3D's "106.14 %"."""

    mce: float | None
    """Mean corruption error: (1 - mIoU) / (1 - baseline's mIoU), below 1 is better than the
    baseline; None when the baseline knows no corruption that was evaluated."""
    mrr: float | None
    """Mean resilience rate: mIoU / mIoU without corruption; None without that."""
    corruptions: tuple[str, ...]
    """What the means are over; the benchmark's numbers need all eight."""
    incomplete: tuple[str, ...]
    """Of these, the ones that lack a severity."""

    @property
    def is_complete(self) -> bool:
        """Whether they are over all corruptions and severities of the benchmark."""
        return (
            self.mce is not None
            and len(self.corruptions) == len(CORRUPTIONS)
            and not self.incomplete
        )


def robust_scores(
    miou: Mapping[str, Mapping[str, float]], *, clean: float | None, baseline: Mapping[str, float]
) -> RobustScores:
    """Robo3D's scores.

    Args:
        miou: By corruption, by severity ("" where a set knows none); a mean over severities is
            taken first. Corruptions that the baseline does not know are not counted.
        clean: mIoU without corruption, if known.
        baseline: of `CorruptionTable`; {} for a set of other corruptions, which it was not measured
            with: then only the resilience is computed, over all corruptions.
    """
    known = [name for name in (CORRUPTIONS if baseline else miou) if miou.get(name)]
    means = {name: _mean(list(miou[name].values())) for name in known}
    errors = [(1 - means[name]) / (1 - baseline[name]) for name in known if baseline]
    rates = [means[name] / clean for name in known] if clean else []
    return RobustScores(
        mce=_mean(errors) if errors else None,
        mrr=_mean(rates) if rates else None,
        corruptions=tuple(known),
        incomplete=tuple(name for name in known if set(miou[name]) not in (set(SEVERITIES), {""})),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
