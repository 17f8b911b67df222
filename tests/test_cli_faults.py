"""Full disks, closed outputs, a lost folder, signals: a command ends with its code and a line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import world  # noqa: F401  # a fixture

pytestmark = pytest.mark.slow

FAULTS = Path(__file__).with_name("output_faults.py")
BEST = "WORLD/run/checkpoints/best.safetensors"
LINE = "interrupted: finished work is kept"

WRITING = (
    "prepare semkitti --root WORLD/raw --cache WORLD/new --workers 0",
    "prepare synth --out WORLD/new --preset tiny --workers 0",
    "stats --cache WORLD/cache --html WORLD/new.html",
    "train --cache WORLD/cache --recipe demo --run WORLD/new",
    f"predict WORLD/raw/sequences/08/velodyne --checkpoint {BEST} --out WORLD/new",
    "view --cache WORLD/cache --no-checkpoint --png WORLD/new",
    "view --cache WORLD/cache --no-checkpoint --html WORLD/new.html",
    f"submit --cache WORLD/cache --checkpoint {BEST} --out WORLD/new.zip --allow-partial",
    f"robust --root WORLD/corrupted --checkpoint {BEST} --out WORLD/new",
)
READING = (
    "prepare semkitti --root WORLD/raw --check",
    "prepare semkitti --root WORLD/raw --cache WORLD/cache --plan",
    "stats --cache WORLD/cache",
    "inspect WORLD/cache",
    f"inspect {BEST}",
    f"eval --cache WORLD/cache --checkpoint {BEST}",
    "cache verify --cache WORLD/cache",
    "cache status --cache WORLD/cache",
    "train --list-recipes",
    "--version",
)
NOWHERE = (
    *("prepare semkitti", "prepare synth --out new", "stats", "inspect", "train", "eval", "robust"),
    *("predict x.bin", "view --html new.html", "submit", "import x.ckpt --out new.safetensors"),
    *("cache verify", "cache repair", "cache gc", "cache status", "cache plan", "cache bench"),
)
INTERRUPTED = {
    "prepare semkitti --root WORLD/raw --check": "pass2d.pipeline.datasets.check:check_scan",
    "prepare semkitti --root WORLD/raw --cache WORLD/new": "pass2d.pipeline.prepare:prepare_all",
    "stats --cache WORLD/cache": "pass2d.cache.statistics:dataset_statistics",
    f"eval --cache WORLD/cache --checkpoint {BEST}": "pass2d.train.evaluation.evaluate:evaluate",
    f"predict WORLD/raw --checkpoint {BEST}": "pass2d.train.prediction.predict:predict",
    f"submit --cache WORLD/cache --checkpoint {BEST}": "pass2d.train.submission.submit:submit",
    "submit --verify WORLD/x.zip": "pass2d.train.submission.verify:verify_submission",
    f"robust --root WORLD/corrupted --checkpoint {BEST}": (
        "pass2d.train.robustness.published_sets:robust_folders"
    ),
    f"robust --cache WORLD/cache --checkpoint {BEST}": (
        "pass2d.train.robustness.cached:robust_cache"
    ),
    "view --cache WORLD/cache --no-checkpoint --html WORLD/new.html": (
        "pass2d.train.viewing.page:write_view_page"
    ),
    f"view --cache WORLD/cache --checkpoint {BEST} --png WORLD/new": (
        "pass2d.train.viewing.segment:checkpoint_labels"
    ),
    "import WORLD/x.ckpt --out WORLD/new.safetensors": (
        "pass2d.train.checkpoints.published.importer:import_checkpoint"
    ),
    "cache verify --cache WORLD/cache": "pass2d.cache.care.verify:verify",
}
"""Command -> the function in which the signal comes."""

CASES = (
    *(("no space", words) for words in WRITING),
    *(("no reader", words) for words in READING[2:6]),
    *(("full stdout", words) for words in READING),
    *(("no stdout", words) for words in (WRITING[0], READING[2])),
    *(("no folder", words) for words in NOWHERE),
    *((f"SIGINT {place}", words) for words, place in INTERRUPTED.items()),
    *((f"SIGTERM {place}", words) for words, place in list(INTERRUPTED.items())[::2]),
)


@pytest.fixture(scope="module")
def ends(world: Path) -> dict[tuple[str, str], tuple[int, str, str]]:  # noqa: F811
    """How each case ended: exit code, standard output, standard error."""
    for kind in ("velodyne", "labels"):
        there = world / "corrupted" / "fog" / "light" / kind
        shutil.copytree(world / "raw" / "sequences" / "08" / kind, there)
    asked = "".join(json.dumps([fault, *words.split()]) + "\n" for fault, words in CASES)
    done = subprocess.run(
        [sys.executable, FAULTS, world], input=asked, capture_output=True, text=True, check=True
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return dict(zip(CASES, answers, strict=True))


@pytest.mark.parametrize("case", CASES, ids=" | ".join)
def test_a_fault_ends_a_command_in_order(ends, case: tuple[str, str]) -> None:
    fault = case[0]
    code, _, err = ends[case]
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in err, err
    assert "Exception ignored" not in err, err
    if fault.startswith("SIG"):
        assert (code, err.splitlines()[-1]) == (130 if "SIGINT" in fault else 143, LINE), err
        assert err.count(LINE) == 1
    elif fault == "no stdout":
        assert (code, errors) == (0, []), err
    elif fault == "no reader":
        assert code in (0, 1), err
        assert errors == []
    else:
        assert (code, len(errors)) == (1, 1), err
        wanted = {
            "no space": "File too large",
            "no folder": "No such file",
            "full stdout": "No space left",
        }
        assert wanted[fault] in errors[0]
