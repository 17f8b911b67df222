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
from thin_pictures import thin_pictures
from torch import Tensor

from bench.gpu import checks
from bench.gpu.__main__ import main
from bench.gpu.image import Way, image_network
from bench.gpu.machine import DEVICE, NOT_SEEN
from bench.gpu.parts import PARTS
from bench.gpu.run import Part, in_process, run_all, watched
from bench.gpu.setup import NETWORKS, Clock, Row, Setup
from bench.gpu.shares import KINDS, PHASES, kind_of
from bench.gpu.table import markdown
from bench.gpu.throughput import CASES
from bench.gpu.waits import count_logical, counted_waits, waits
from pass2d.commands.doctor.finding import Finding
from pass2d.commands.doctor.process import Answer, Ask
from pass2d.models.twodpass.encoder2d import Encoder2D
from pass2d.train.optim.optimizer import guarded_step

PYTEST_SAID = """..s.F
SKIPPED [1] tests/test_x.py:30: no torch-scatter
FAILED tests/test_x.py::test_y - AssertionError: 3 is not 4
1 failed, 3 passed, 1 skipped, 12 deselected in 1.23s
"""
PYTEST_SKIPPED = """ssss                                     [100%]
SKIPPED [3] tests/test_x.py:30: no CUDA device
SKIPPED [1] ../tests/test_z.py:9: no CUDA device
4 skipped, 40 deselected in 0.5s
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
        "waits": Part(
            partial(waits, logical=lambda *_: dict.fromkeys(NETWORKS, (Counter(), 4))), 1
        ),
    }
    words = ["--device", "cpu", "--small", "--seconds", "600", "--out", str(tmp_path)]
    with thin_pictures():
        table = main(words, parts=parts, runner=in_process)
    assert (tmp_path / "table.md").read_text() == table
    title, _, facts, _, remark, _, head, line, *rows = table.splitlines()
    assert title == "## Rehearsal of `bench.gpu` on a CPU"
    assert "; torch 2" in facts
    assert "Tiny networks" in remark
    assert len({text.count("|") for text in (head, line, *rows)}) == 1
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert ["machine", *dict.fromkeys(row[0] for row in cells)] == list(PARTS)
    assert {row[0] for row in cells if "failed:" in row[2]} == set()
    assert {row[0] for row in cells if row[4] == "no"} == {"doctor", "tests", "golden"}
    found = "\n".join(rows)
    for what in (
        *(f"phase, waited for at its end: {name}" for name in PHASES),
        *(f"kind of operation: {name}" for name, _, _ in KINDS),
        *(f"{' '.join((name, *more))}: training with reading" for name, more in CASES),
        "2dpass-small: how often a step waits",
        "spvcnn: relative distance of logits and gradients",
        "2dpass-small deterministic=true: weights after 2 steps, from the same seed twice",
        "mIoU on a street it has not seen",
        "broken: none / here",
        "3 passed, 1 skipped (no torch-scatter)",
        "tests/test_x.py::test_y | AssertionError: 3 is not 4 |  | no",
        "not done in time",
        "forward and backward: as it is",
    ):
        assert what in found, what


def test_tests_that_all_skip_are_not_passed(setup: Setup) -> None:
    (row,) = checks.golden_tests(setup, Clock(60), ask=lambda *_: (PYTEST_SKIPPED, True))
    assert row.measured == "none ran: 4 skipped (no CUDA device)"
    assert row.is_reached is None
    broken = "ImportError: libcudart.so"
    (row,) = checks.golden_tests(setup, Clock(60), ask=lambda *_: (broken, True))
    assert row.measured == broken
    assert row.is_reached is None


def test_a_probe_of_the_doctor_may_take_half_of_the_time_left(setup: Setup) -> None:
    limits = []

    def asked(*_: str, timeout_s: float) -> Answer:
        limits.append(timeout_s)
        return Answer(values=None, failure="no answer")

    def examined(*_: object, ask: Ask, **__: object) -> Iterator[Finding]:
        for most in (180.0, 3.0):
            answer = ask("torch", timeout_s=most)
            yield Finding(name="torch", state="broken", found=answer.failure, remedy="Mend it.")

    first, _ = checks.doctor(setup, Clock(40), examine=examined, ask_probe=asked)
    assert limits == [pytest.approx(20, abs=1), 3.0]
    assert first.measured == "broken: no answer"
    assert first.beside == "to do: Mend it."
    assert first.is_reached is False


def test_without_the_device_what_needs_it_is_left_out_and_the_doctor_is_asked(
    setup: Setup,
) -> None:
    def runner(_setup: Setup, name: str, _part: Part, _limit: float) -> list[Row]:
        found = NOT_SEEN if name == "machine" else "asked"
        return [Row(part=name, what=DEVICE, measured=found)]

    *_, table = run_all(PARTS, setup, only=["doctor", "steps"], seconds=5, runner=runner)
    assert table.splitlines()[0].endswith(NOT_SEEN)
    assert table.splitlines()[-2:] == [
        "| doctor | device | asked |  |  |",
        "| steps |  | left out: cpu: torch does not see it |  | no |",
    ]


def test_goals_are_judged_only_where_they_hold(setup: Setup) -> None:
    assert setup.judged(True) is None
    real = Setup(device="cpu", folder=setup.folder, is_small=False)
    assert real.judged(False) is False
    assert real.judged(True, on="H100") is None
    assert real.estimate("95 ms") == ""


def test_each_way_to_run_the_image_network_is_a_row_that_says_whether_it_pays(
    setup: Setup,
) -> None:
    def as_it_is(network: Encoder2D, _: Tensor) -> Encoder2D:
        return network

    ways: dict[str, Way] = {"odd": lambda *_: 1, "same": as_it_is}  # type: ignore[dict-item]
    plain, odd, same = image_network(setup, Clock(60), ways=ways)
    assert plain.what == "2 pictures of 32 x 96, forward and backward: as it is"
    assert odd.measured == "failed: TypeError: 'int' object is not callable"
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
        "| odd | first | 1 |  |  |",
        "| odd |  | failed: MemoryError: CUDA out of memory |  | no |",
        "| next |  | no answer |  | no |",
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


def test_operations_have_their_kind_and_cells_no_bars(setup: Setup) -> None:
    kinds = {
        "SparseImplicitGemmFunction": "sparse convolutions",
        "aten::cudnn_convolution": "image convolutions",
        "aten::embedding_bag": "sums over lists of rows",
        "aten::addmm": "products of rows",
        "aten::_fused_sgd_": "optimizer",
        "aten::leaky_relu_": "all else",
    }
    assert {name: kind_of(name) for name in kinds} == kinds
    text = markdown([Row(part="a", what="b | c\nd", measured="")], setup)
    assert text.splitlines()[-1] == "| a | b / c d |  |  |  |"
