"""Freed blocks are used again."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

FAULTS = """
import resource
import numpy as np
from pass2d.common.memory import keep_freed_memory
done = {call}
for _ in range(3):
    np.ones(10_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    np.ones(10_000_000)
print(done, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(call: str, **env: str) -> tuple[str, int]:
    found = subprocess.run(
        [sys.executable, "-c", FAULTS.format(call=call)],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=True,
    )
    done, n_faults = found.stdout.split()
    return done, int(n_faults)


@pytest.mark.skipif(
    not hasattr(os, "confstr") or "glibc" not in str(os.confstr("CS_GNU_LIBC_VERSION")),
    reason="glibc alone",
)
def test_blocks_of_80_mb_are_not_mapped_anew() -> None:
    n_pages = 5 * 80_000_000 // resource.getpagesize()
    done, kept = faults("keep_freed_memory()")
    assert done == "True"
    assert kept < n_pages / 100


def test_the_environment_comes_first() -> None:
    assert faults("keep_freed_memory()", MALLOC_TRIM_THRESHOLD_="131072")[0] == "False"
