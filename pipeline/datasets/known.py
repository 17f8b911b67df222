"""The data sets that pass2d knows by name, as their tables describe them."""

from __future__ import annotations

from pathlib import Path

from pass2d.cache.schema import DatasetInfo
from pass2d.pipeline.datasets.table import DatasetTable, load_table

TABLES = ("semkitti", "nuscenes")


def known_datasets() -> tuple[DatasetInfo, ...]:
    """Label table, grid and file layout of every known data set."""
    return tuple(table.info for table in known_tables())


def known_tables() -> tuple[DatasetTable, ...]:
    """Everything that is known of every known data set, official splits and counts included."""
    folder = Path(__file__).parent
    return tuple(load_table(folder / f"{name}.toml") for name in TABLES)
