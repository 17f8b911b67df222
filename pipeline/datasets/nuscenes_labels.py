"""Raw labels of nuScenes by name, with the data set's own numbers, on which documents disagree."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pass2d.cache.schema import DatasetInfo, LabelTable
from pass2d.common.errors import DataError
from pass2d.pipeline.datasets.table import DatasetTable


def info_by_name(
    table: DatasetTable, label_ids: dict[str, int] | None, *, file: Path
) -> tuple[DatasetInfo, tuple[str, ...]]:
    """Describe the data set with the raw ids that its own category.json gives to the names.

    Args:
        table: of ``nuscenes.toml``; what each name is trained as.
        label_ids: raw id of each name; None where the set does not say: the table's ids hold.
        file: where ``label_ids`` come from, for the message.

    Returns:
        The description, and a note where ids differ from the table's.

    Raises:
        DataError: a name that the table lacks, or a class none of whose names is there.
    """
    if label_ids is None:
        return table.info, ()
    usual = {name: raw_id for raw_id, name in table.raw_names.items()}
    if unknown := sorted(label_ids.keys() - usual.keys()):
        raise DataError(
            f"{file}: found label {', '.join(unknown)}, expected names of nuScenes-lidarseg "
            f"({len(usual)}, from {min(usual)} to {max(usual)}). Add a "
            "new name, with its training id, to pipeline/datasets/nuscenes.toml."
        )
    labels = table.info.labels
    raw_to_training = {
        raw_id: labels.raw_to_training[usual[name]] for name, raw_id in label_ids.items()
    }
    info = replace(
        table.info,
        labels=LabelTable(
            raw_to_training=dict(sorted(raw_to_training.items())),
            training_to_raw=_training_to_raw(table, label_ids, raw_to_training, file),
            names=labels.names,
            colors_rgb=labels.colors_rgb,
        ),
    )
    return info, tuple(_remarks(usual, label_ids, file))


def _training_to_raw(
    table: DatasetTable, label_ids: dict[str, int], raw_to_training: dict[int, int], file: Path
) -> tuple[int, ...]:
    """The raw id to write per class: that of the table's name, else the class's first."""
    labels = table.info.labels
    written = []
    for training_id, usual_id in enumerate(labels.training_to_raw):
        own = label_ids.get(table.raw_names[usual_id])
        others = sorted(raw for raw, known in raw_to_training.items() if known == training_id)
        if own is None and not others:
            raise DataError(
                f"{file}: no label of class {labels.names[training_id]}, expected e.g. "
                f"{table.raw_names[usual_id]}. Unpack the tables of nuScenes-lidarseg again."
            )
        written.append(others[0] if own is None else own)
    return tuple(written)


def _remarks(usual: dict[str, int], label_ids: dict[str, int], file: Path) -> list[str]:
    remarks = []
    if moved := [name for name, raw_id in label_ids.items() if usual[name] != raw_id]:
        name = moved[0]
        remarks.append(
            f"{file}: {len(moved)} labels have other numbers than usual (e.g. {name} is "
            f"{label_ids[name]}, usually {usual[name]}): taken by name"
        )
    if missing := sorted(usual.keys() - label_ids.keys()):
        remarks.append(f"{file}: labels without a number: {', '.join(missing)}")
    return remarks
