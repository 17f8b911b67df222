"""docs/format.md: its code reads a cache as our reader does, its table lists every array."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from cache_samples import write_sample_cache

from pass2d.cache.fields import FIELDS, Fields
from pass2d.cache.reader import CacheReader

PAGE = (Path(__file__).parents[1] / "docs" / "format.md").read_text()


def test_its_code_reads_a_cache(tmp_path: Path) -> None:
    write_sample_cache(tmp_path, n_scans=2)
    names: dict[str, Any] = {"root": str(tmp_path / "semkitti")}
    for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        exec(block, names)
    with CacheReader.open(tmp_path) as reader:
        expected = reader.read(0, Fields()).xyz
    assert np.array_equal(names["xyz"], expected)
    assert np.array_equal(names["xyz_again"], expected)


def test_its_table_names_every_array_with_its_types() -> None:
    rows = [row for row in PAGE.splitlines() if row.startswith("|") and "`" in row]
    for name, spec in FIELDS.items():
        (row,) = [r for r in rows if f"`{name}`" in r.split("|")[2] and r.count("|") == 7]
        types = row.split("|")[3].strip()
        assert types in (" or ".join(spec.dtypes), "as above"), name
        assert spec.codec("speed").cname in row or "as above" in row
