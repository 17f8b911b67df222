"""How the raw files of a data set are read, according to its cache and checkpoints."""

from __future__ import annotations

from dataclasses import replace

from pass2d.cache.schema import DatasetInfo, RawFormat
from pass2d.points.binary import SUFFIX, BinaryOptions
from pass2d.points.mapping import InputMapping
from pass2d.points.registry import point_suffix


def own_mapping(info: DatasetInfo, name: str) -> InputMapping:
    """Columns, units and place of a data set's own files; of another format only units and place.

    Args:
        info: of the data set.
        name: of the file.
    """
    if info.raw_format is None:
        return InputMapping()
    mapping = mapping_of(info.raw_format)
    is_own = point_suffix(name) == info.raw_format.suffix
    return mapping if is_own else replace(mapping, columns={})


def mapping_of(raw: RawFormat) -> InputMapping:
    """Columns, units and place.

    Raises:
        ConfigError: numbers that no sensor has.
    """
    return InputMapping(
        columns=raw.roles,
        unit_m=raw.unit_m,
        signal_scale=raw.signal_scale,
        z_offset=raw.z_offset,
        rotation=raw.rotation,
    )


def own_binary(
    info: DatasetInfo, *, columns: int | None = None, dtype: str | None = None
) -> BinaryOptions:
    """What is known of ``.bin`` files that may be a data set's own.

    Args:
        info: of the data set.
        columns: numbers per point, where a person says so.
        dtype: of those numbers, likewise.
    """
    is_asked = columns is not None or dtype is not None
    if info.raw_format is None:
        return BinaryOptions(
            usual=info.raw_columns, columns=columns, dtype=dtype, is_asked=is_asked
        )
    raw = info.raw_format
    own = raw.dtype if raw.dtype != "float32" else None
    is_stated = not is_asked and raw.suffix == SUFFIX
    places = [raw.roles.get(name, str(place)) for place, name in enumerate("xyz")]
    x, y, z = (int(word) if word.isdecimal() else place for place, word in enumerate(places))
    return BinaryOptions(
        usual=raw.columns,
        columns=columns,
        dtype=dtype or own,
        stated_xyz=(x, y, z) if is_stated and max(x, y, z) < raw.columns else None,
        is_asked=is_asked,
    )
