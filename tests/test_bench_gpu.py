"""`python -m bench.gpu` from end to end, tiny and on a CPU; what bad parts leave of the table."""

from __future__ import annotations

import json
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from cache_samples import write_sample_cache
from torch import Tensor

from bench.gpu import checks
from bench.gpu.__main__ import main
from bench.gpu.image import Way, image_network
from bench.gpu.parts import PARTS
from bench.gpu.run import Part, in_process, run_all, watched
from bench.gpu.setup import Clock, Row, Setup
from bench.gpu.shares import KINDS, PHASES, kind_of
from bench.gpu.table import markdown
from bench.gpu.throughput import CASES
from bench.gpu.waits import count_logical, counted_waits, waits
from pass2d.commands.doctor.finding import Finding
from pass2d.models.twodpass.encoder2d import Encoder2D
from pass2d.train.optim.optimizer import guarded_step

PYTEST_SAID = """..s.F
FAILED tests/test_x.py::test_y - AssertionError: 3 is not 4
1 failed, 3 passed, 1 skipped, 12 deselected in 1.23s
"""


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(device="cpu", folder=tmp_path, is_small=True)


@pytest.mark.slow
def test_every_part_has_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ray", "tensorboard", "onnx", "laspy", "hypothesis"):
        monkeypatch.setitem(sys.modules, name, None)  # what a bare machine lacks

    def examined(*_: object, **__: object) -> list[Finding]:
        return [Finding(name="Ray", state="broken", found="none | here", remedy="pip install ray")]

    said = partial(checks.golden_tests, ask=lambda *_: (PYTEST_SAID, True))
    parts = {
        **PARTS,
        "doctor": Part(partial(checks.doctor, examine=examined), 1),
        "tests": Part(partial(checks.gpu_tests, ask=lambda *_: ("", False)), 1),
        "golden": Part(said, 1),
        "waits": Part(partial(waits, logical=lambda *_: (Counter(), 4)), 1),
    }
    words = ["--device", "cpu", "--small", "--seconds", "600", "--out", str(tmp_path)]
    table = main(words, parts=parts, runner=in_process)
    assert (tmp_path / "table.md").read_text() == table
    title, _, facts, _, head, line, *rows = table.splitlines()
    assert title == "## On a GPU: CPU (no GPU)"
    assert "torch" in facts
    assert len({text.count("|") for text in (head, line, *rows)}) == 1
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert list(dict.fromkeys(row[0] for row in cells)) == list(PARTS)
    failed = {row[0] for row in cells if "failed" in row[1] or "failed:" in row[2]}
    assert failed == set()
    found = "\n".join(rows)
    for what in (
        *(f"phase: {name}" for name in PHASES),
        *(f"kind: {name}" for name, _, _ in KINDS),
        *(f"{' '.join((name, *more))}: training with reading" for name, more in CASES),
        "2dpass-small: waits of a step",
        "spvcnn: relative distance to plain",
        "mIoU on a street it has not seen",
        "broken: none / here",
        "3 passed",
        "tests/test_x.py::test_y | AssertionError: 3 is not 4",
        "not done in time",
        "forward and backward: as it is",
    ):
        assert what in found, what


def test_each_way_to_run_the_image_network_is_a_row_that_says_whether_it_pays(
    setup: Setup,
) -> None:
    def as_it_is(network: Encoder2D, _: Tensor) -> Encoder2D:
        return network

    ways: dict[str, Way] = {"odd": lambda *_: 1, "same": as_it_is}  # type: ignore[dict-item]
    plain, odd, same = image_network(setup, Clock(60), ways=ways)
    assert plain.what == "2 pictures of 32 x 96, forward and backward: as it is"
    assert odd.measured == "failed: 'int' object is not callable"
    assert same.beside == "pays from 1.1 times on"
    assert "times as fast: " in same.measured
    assert "pay" in same.measured
    assert [row.measured for row in image_network(setup, Clock(60))][1:] == [
        "not measured on a CPU",
        "not measured on a CPU",
    ]


def test_a_part_that_fails_hangs_or_crashes_is_a_row_and_keeps_what_it_found(
    setup: Setup,
) -> None:
    def work(_setup: Setup, _clock: Clock) -> Iterator[Row]:
        yield Row(part="odd", what="first", measured="1")
        raise MemoryError("CUDA out of memory\nand so on")

    tables = run_all(
        {"odd": Part(work, 1), "next": Part(lambda *_: iter(()), 1)},
        setup,
        only=None,
        seconds=5,
        runner=in_process,
    )
    assert list(tables)[-1].splitlines()[-3:] == [
        "| odd | first | 1 |  |",
        "| odd | failed | MemoryError: CUDA out of memory |  |",
        "| next |  | no answer |  |",
    ]
    assert json.loads((setup.folder / "odd.jsonl").read_text().splitlines()[0])["what"] == "first"


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("time.sleep(600)", "not done within 2 s"),
        ("os.kill(os.getpid(), 11)", "exit code -11"),
        ("raise SystemExit('driver too old')", "exit code 1: driver too old"),
    ],
)
def test_a_process_is_ended_in_time_and_its_rows_are_kept(
    tmp_path: Path, end: str, said: str
) -> None:
    rows = tmp_path / "x.jsonl"
    row = json.dumps({"part": "x", "what": "a", "measured": "1", "beside": ""})
    code = f"import os, time; open({str(rows)!r}, 'w').write({row!r} + '\\n' + '{{\"pa'); "
    found = watched([sys.executable, "-c", code + end], rows, name="x", limit=2)
    assert [one.what for one in found[:1]] == ["a"]
    assert said in found[-1].measured


def test_time_that_one_part_leaves_goes_to_those_after_it(setup: Setup) -> None:
    limits = {}

    def runner(_setup: Setup, name: str, _part: Part, limit: float) -> list[Row]:
        limits[name] = limit
        return []

    parts = {name: Part(lambda *_: iter(()), share) for name, share in (("a", 3), ("b", 1))}
    list(run_all(parts, setup, only=None, seconds=100, runner=runner))
    assert limits["a"] == pytest.approx(75, abs=1)
    assert limits["b"] == pytest.approx(100, abs=2)
    assert sum(part.share for part in PARTS.values()) <= 510


def test_logical_waits_are_told_by_place_and_those_of_spconv_apart(tmp_path: Path) -> None:
    write_sample_cache(tmp_path, n_scans=4, sequences=("00", "08"), n_points=60)
    found = count_logical(str(tmp_path), "baseline", "augment.mode=full")
    assert {phase for phase, _, _ in found["waits"]} == {"prepare"}
    assert sum(times for *_, times in found["waits"]) == 9
    assert found["spconv"] == 4


def test_real_waits_are_counted_by_phase_and_line() -> None:
    modes = []
    with counted_waits(modes.append) as found:
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
        optimizer = _Warns()
        with pytest.raises(AttributeError):
            guarded_step(optimizer, None, rate=0.1, clip_norm=1.0)  # type: ignore[arg-type]
    assert modes == ["warn", "default"]
    (elsewhere, _), (phase, place) = found
    assert elsewhere == "other"
    assert phase == "optimizer"
    assert place.startswith("train/optim/optimizer.py:")
    assert found.total() == 2


class _Warns:
    """Waits when it is asked for its groups, and then is no optimizer."""

    @property
    def param_groups(self) -> list[object]:
        warnings.warn("called a synchronizing CUDA operation", stacklevel=2)
        raise AttributeError


def test_operations_have_their_kind_and_cells_no_bars() -> None:
    kinds = {
        "SparseImplicitGemmFunction": "sparse convolutions",
        "aten::cudnn_convolution": "image convolutions",
        "aten::embedding_bag": "sums over lists of rows",
        "aten::addmm": "products of rows",
        "aten::_fused_sgd_": "optimizer",
        "aten::leaky_relu_": "all else",
    }
    assert {name: kind_of(name) for name in kinds} == kinds
    text = markdown([Row(part="a", what="b | c\nd", measured="")], {"device": "X", "torch": "2"})
    assert text.splitlines()[-1] == "| a | b / c d |  |  |"
