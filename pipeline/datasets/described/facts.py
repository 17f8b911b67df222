"""What the rest of pass2d must know about a described data set."""

from __future__ import annotations

import colorsys
from dataclasses import replace

import numpy as np

from pass2d.cache.schema import DatasetFacts, DatasetInfo, GridConfig, LabelTable, RawFormat
from pass2d.pipeline.datasets.described.description import Description, LabelsPart
from pass2d.pipeline.datasets.table import DatasetTable
from pass2d.points.binary import SUFFIX
from pass2d.points.mapping import ROLES
from pass2d.points.registry import point_suffix

LAYOUT_NAME = "described"
_GOLDEN = 0.618034
"""Of a turn: hues this far apart stay apart however many there are."""


def table_of(description: Description) -> DatasetTable:
    """The same facts as in the TOML file of a built-in data set."""
    classes, ignored = description.classes, description.ignored
    dataset, points = description.dataset, description.points
    volume = description.volume
    raw_to_training = {raw & 0xFFFF: 0 for raw in ignored.raw}
    for training, one in enumerate(classes, start=1):
        raw_to_training |= {raw & 0xFFFF: training for raw in one.raw}
    write_nothing = _ignored_write(description, raw_to_training)
    raw_to_training[write_nothing] = 0
    movable = tuple(place for place, one in enumerate(classes, start=1) if one.thing)
    vehicles = tuple(place for place, one in enumerate(classes, start=1) if one.vehicle)
    lidar = description.sensor.facts()
    facts = DatasetFacts(
        title=dataset.title or dataset.name,
        label_bytes=4,
        has_instances=description.labels is not None and description.labels.instance is not None,
        forward_axis=points.ahead,
        full_scale=points.signal.full,
        absent_counts_zero=dataset.absent_classes == "zero",
        pitch_deg=lidar.fov_deg,
        movable=movable,
        lidar=replace(
            lidar,
            vehicles=vehicles or movable,
            sealed_ground=tuple(place for place, one in enumerate(classes, 1) if one.sealed),
        ),
    )
    names = (ignored.name, *(one.name for one in classes))
    info = DatasetInfo(
        name=dataset.name,
        layout=LAYOUT_NAME,
        labels=LabelTable(
            raw_to_training=dict(sorted(raw_to_training.items())),
            training_to_raw=(
                write_nothing,
                *((one.raw[0] if one.write is None else one.write) & 0xFFFF for one in classes),
            ),
            names=names,
            colors_rgb=(
                _rgb(ignored.color) or (0, 0, 0),
                *(_rgb(one.color) or _on_wheel(place) for place, one in enumerate(classes)),
            ),
        ),
        grid=GridConfig(low=volume.low, high=volume.high, shape=volume.cells),
        n_cameras=max(1, len(description.cameras)),
        has_class_weights=dataset.class_weights,
        signal_name=points.signal.name,
        raw_columns=4,
        own_facts=facts,
        raw_format=raw_format(description),
        description=dict(description.plain),
    )
    return DatasetTable(
        info=info,
        raw_names={raw: names[training] for raw, training in raw_to_training.items()},
        splits={},
        scan_counts={},
        cameras=camera_names(description),
        camera_rule="in_front",
    )


def camera_names(description: Description) -> tuple[str, ...]:
    """Of several cameras; empty where there is only one."""
    cameras = description.cameras
    if len(cameras) < 2:
        return ()
    return tuple(camera.name or f"camera{place}" for place, camera in enumerate(cameras))


def raw_format(description: Description) -> RawFormat:
    """How a scan's files are read."""
    points, labels = description.points, description.labels
    columns = points.columns
    roles = {role: str(columns.index(role)) for role in ROLES if role in columns}
    suffix = point_suffix(points.files)
    if suffix != SUFFIX:
        roles = {}
    found = RawFormat(
        suffix=suffix,
        columns=len(columns),
        dtype=points.binary_dtype,
        roles={**roles, **points.map},
        unit_m=points.unit_m(),
        signal_scale=points.signal.scale,
        z_offset=points.z_offset,
        rotation=points.rotation(),
    )
    if labels is None:
        return found
    return replace(
        _with_bits(found, labels),
        label_column=_column(labels.column, columns if roles else ()),
        ignores_unnamed=labels.unnamed == "ignore",
    )


def _column(name: str, columns: tuple[str, ...]) -> str:
    """A column of a `.bin` file by its place, any other by its name."""
    return str(columns.index(name)) if name in columns else name


def _with_bits(found: RawFormat, labels: LabelsPart) -> RawFormat:
    """Type, shifts and masks of labels; the raw id ends where the instance id begins."""
    kind = np.dtype(labels.dtype)
    instance, mask = labels.instance, labels.mask
    if instance is not None and mask is None and instance.shift > labels.shift:
        mask = (1 << (instance.shift - labels.shift)) - 1
    return replace(
        found,
        label_dtype=kind.newbyteorder("<").str if kind.isnative else kind.str,
        label_shift=labels.shift,
        label_mask=mask,
        instance_shift=None if instance is None else instance.shift,
        instance_mask=None if instance is None else instance.mask,
    )


def _ignored_write(description: Description, taken: dict[int, int]) -> int:
    """The raw id of predictions without a class: none that a class has."""
    ignored = description.ignored
    if ignored.write is not None:
        return ignored.write & 0xFFFF
    if ignored.raw:
        return ignored.raw[0] & 0xFFFF
    return next(raw for raw in (0, *range(0xFFFF, 0, -1)) if raw not in taken)


def _rgb(color: str) -> tuple[int, int, int] | None:
    if not color:
        return None
    red, green, blue = bytes.fromhex(color[1:])
    return red, green, blue


def _on_wheel(place: int) -> tuple[int, int, int]:
    """The color of a class that has none: hues far apart, in two strengths."""
    strength = (1.0, 0.7)[place % 2]
    red, green, blue = colorsys.hsv_to_rgb(place * _GOLDEN % 1, 0.75, strength)
    return round(255 * red), round(255 * green), round(255 * blue)
