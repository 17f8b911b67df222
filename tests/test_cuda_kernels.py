"""Every sparse layer has a kernel in spconv's build: none is compiled at a first step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("spconv_kernels.py")


@pytest.mark.slow
def test_every_layer_of_every_recipe_has_a_kernel_on_every_kind_of_gpu() -> None:
    pytest.importorskip("spconv")
    done = subprocess.run(
        [sys.executable, SCRIPT],
        check=True,
        cwd=SCRIPT.parents[1],
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])},
        capture_output=True,
        text=True,
    )
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["layers"] > 10
    assert answer["lacking"] == []
