"""From raw labels of a file to training ids and instance ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pass2d.cache.schema import UNKNOWN_LABEL, LabelTable
from pass2d.pipeline.problem import Problem, UnknownLabelProblemError

UNNAMED = "unnamed"
"""Kind of the problem of raw ids that the table lacks."""


def map_labels(
    raw_labels: NDArray[np.uint32], *, table: LabelTable, file: Path
) -> NDArray[np.uint8]:
    """Look up the training id of each point.

    Args:
        raw_labels: (N,) as in the file; the low 16 bits are the raw id.
        table: of the data set; an id that it lacks is an error, not class 0.
        file: where the labels come from, for the message.

    Returns:
        (N,) training ids, 0 ignored.

    Raises:
        UnknownLabelProblemError: naming the file and every unknown id with its count.

    Source: docs/maths.md, section 1.
    """
    raw_ids = raw_labels.astype(np.uint16)
    training_ids = table.training_lookup()[raw_ids]
    if (training_ids == UNKNOWN_LABEL).any():
        raise _unknown(raw_ids[training_ids == UNKNOWN_LABEL], table, file)
    return training_ids


def instance_ids(raw_labels: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """(N,) instance of each point: the high 16 bits of SemanticKITTI's (N,) labels, 0 for none."""
    return raw_labels >> np.uint32(16)


def _unknown(
    raw_ids: NDArray[np.uint16], table: LabelTable, file: Path
) -> UnknownLabelProblemError:
    ids, counts = np.unique(raw_ids, return_counts=True)
    listed = ", ".join(f"{i} ({n} points)" for i, n in zip(ids[:10], counts[:10], strict=True))
    more = f" and {len(ids) - 10} more ids" if len(ids) > 10 else ""
    known = sorted(table.raw_to_training)
    return UnknownLabelProblemError(
        Problem(
            file=file,
            found=f"raw label {listed}{more}",
            expected=f"one of the table's {len(known)} raw ids ({known[0]}..{known[-1]})",
            remedy="Is it a label file of another data set? Else name the id in its table "
            "(pipeline/datasets/*.toml) or description.",
            kind=UNNAMED,
        )
    )
