"""Commands on a logical CUDA device, the second of its machine; what they say beside a CPU."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from logical_cuda import Device, WrongDeviceError, in_this_thread
from logical_runs import SHORT, a_gpu, require_waits, small_recipe, take_steps
from pipeline_files import write_sequence
from thin_pictures import thin_pictures
from typed import answer, pass2d
from typer.testing import CliRunner

from pass2d.cache.reader import CacheReader
from pass2d.cli import app
from pass2d.commands.doctor.probes import PROBES
from pass2d.commands.doctor.process import Answer, Ask, run
from pass2d.common.progress import Silent
from pass2d.corruptions.registry import parse_variants
from pass2d.models.inputs import PointBatch
from pass2d.pipeline.corrupted import corrupted_listings
from pass2d.pipeline.datasets.semkitti import list_semkitti
from pass2d.pipeline.prepare import PrepareConfig, prepare_all
from pass2d.train.distributed.process_group import ProcessGroup
from pass2d.train.inference.segmenter import Segmenter
from pass2d.train.run.assemble import fresh_network

SECOND = "cuda:1"
ONE_AT_A_TIME = threading.Lock()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """raw/ and cache/ of seven scans, and one corruption of them."""
    root = tmp_path_factory.mktemp("world")
    for sequence, frames in (("00", (0, 1, 2, 3)), ("08", (0, 1)), ("11", (0,))):
        write_sequence(root / "raw", sequence, frames, n=80, labels=sequence != "11")
    listing = list_semkitti(root / "raw")
    listings = [listing, *corrupted_listings(listing, parse_variants("fog:light"))]
    prepare_all(listings, root / "cache", PrepareConfig(workers=0), Silent())
    return root


@pytest.fixture(scope="module")
def trained(world: Path) -> Path:
    """A run on the second GPU, ended after an epoch and resumed."""
    settings = [*SHORT, "network.settings.hidden=4", f"device={SECOND}", "average.kind=ema"]
    words = [word for setting in settings for word in ("--set", setting)]
    begin = ["train", "--cache", world / "cache", "--dataset", "semkitti", "--run", world / "run"]
    with thin_pictures(), a_gpu(index=1) as here:
        begin += ["--recipe", "2dpass-small", *words]
        first = answer(*begin)
        assert first["is_complete"]
        assert first["steps"] == 2
        again = answer(*begin, "--resume", "--set", "epochs=2", "--set", "resume_anyway=true")
        assert again["steps"] == 4
        assert here.in_flight.begun > 0
    return world / "run" / "checkpoints" / "best.safetensors"


@pytest.fixture
def gpu() -> Iterator[Device]:
    with a_gpu(index=1) as here:
        yield here


def common(world: Path, trained: Path, device: str = SECOND) -> list[Any]:
    cache = ["--cache", world / "cache", "--dataset", "semkitti"]
    return [*cache, "--checkpoint", trained, "--device", device]


def test_eval_with_votes_counts_as_on_a_cpu(world: Path, trained: Path) -> None:
    on_cpu = answer("eval", *common(world, trained, "cpu"), "--votes", "lattice")
    with a_gpu(index=1):
        on_gpu = answer("eval", *common(world, trained), "--votes", "lattice")
    for cpu, gpu in zip(on_cpu["passes"], on_gpu["passes"], strict=True):
        assert gpu["official"]["miou"] == pytest.approx(cpu["official"]["miou"], abs=0.02)
        assert gpu["official"]["points"] == cpu["official"]["points"]


def test_predict_submit_robust_and_view(
    world: Path, trained: Path, tmp_path: Path, gpu: Device
) -> None:
    scans = world / "raw" / "sequences" / "11" / "velodyne"
    predicted = answer(
        "predict", scans, "--checkpoint", trained, "--device", SECOND, "--out", tmp_path / "p"
    )
    assert (predicted["scans"], predicted["points"]) == (1, 80)
    submitted = pass2d(
        "submit", *common(world, trained), "--out", tmp_path / "s.zip", "--allow-partial"
    )
    assert submitted.exit_code == 0, submitted.output
    robust = ["robust", "--cache", world / "cache", "--checkpoint", trained, "--device", SECOND]
    found = pass2d(*robust, "--dataset", "semkitti", "--out", tmp_path / "r")
    assert found.exit_code == 0, found.output
    view = ["view", *common(world, trained), "--split", "val", "--png", tmp_path / "v"]
    shown = pass2d(*view)
    assert shown.exit_code == 0, shown.output
    assert list((tmp_path / "v").rglob("*.png"))
    assert gpu.current == 1


def test_segmenter_answers_as_on_a_cpu(trained: Path) -> None:
    points = np.random.default_rng(0).uniform(-20, 20, (300, 4)).astype(np.float32)
    wanted, _ = Segmenter.load(trained, device="cpu", votes=2)(points)
    with a_gpu(index=1):
        segmenter = Segmenter.load(trained, device=SECOND, votes=2)
        outside = segmenter.prepare(points).scan
        assert outside.copied_from is None  # the device looks for the nearest points itself
        assert len(outside.other_rows) > 100
        found, _ = segmenter(points)
    assert (found == wanted).mean() > 0.99


def ask_here(*words: str, timeout_s: float) -> Answer:
    """The doctor's probes in this process, one at a time, where the logical device is."""
    with ONE_AT_A_TIME, in_this_thread():
        try:
            return Answer(values=PROBES[words[0]](*words[1:]))
        except WrongDeviceError as error:
            return Answer(values=None, failure=str(error))


def examined(*words: object, ask: Ask = ask_here) -> dict[str, dict[str, str]]:
    """What `pass2d doctor` finds, by name."""
    command = ["doctor", *map(str, words), "--json"]
    result = CliRunner().invoke(app, command, obj=ask)
    document = json.loads(result.stdout[result.stdout.index('{\n  "state"') :])  # spconv prints
    findings = {finding["name"]: finding for finding in document["findings"]}
    assert result.exit_code == ("broken" in {one["state"] for one in findings.values()})
    return findings


@pytest.fixture(scope="module")
def whole(world: Path) -> dict[str, dict[str, str]]:
    """All findings on a GPU, and on a cache."""
    with a_gpu():
        return examined("--cache", world / "cache", "--dataset", "semkitti")


def test_doctor_finds_a_gpu_with_all_that_works_on_it(whole: dict[str, dict[str, str]]) -> None:
    names = list(whole)
    assert names[:4] == ["Python", "packages", "torch", "cuda:0"]
    assert whole["cuda:0"]["found"].startswith("Logical, compute capability 9.0")
    assert "CUDA" not in whole
    assert "sm_90: torch: machine code" in whole["cuda:0, machine code"]["found"]
    for device in ("cpu", "cuda:0"):
        assert "match a dense convolution" in whole[f"spconv on {device}"]["found"]
    assert "cuda:0: spconv" in whole["sparse convolutions"]["found"]
    assert names[-3:] == ["cache, some chunks", "cache, files", "cache, raw data"]
    assert {whole[name]["state"] for name in ("torch", "cuda:0", "TF32", "cache")} == {"ok"}


@pytest.mark.parametrize(
    "lost", ["torch", "gpus", "gpu", "spconv", "scatter", "tensorboard", "ray"]
)
def test_doctor_keeps_its_other_findings_when_a_probe_hangs_or_dies(
    world: Path, whole: dict[str, dict[str, str]], lost: str
) -> None:
    def ask_but(*words: str, timeout_s: float) -> Answer:
        if words[0] == lost and words[-1] != "cpu":
            return run([sys.executable, "-c", "import time; time.sleep(600)"], timeout_s=0.2)
        return ask_here(*words, timeout_s=timeout_s)

    with a_gpu():
        found = examined("--cache", world / "cache", "--dataset", "semkitti", ask=ask_but)
    depending = {
        "torch": {name for name in whole if "spconv on" in name or "scatter on" in name}
        | {"sparse convolutions"},
        "gpus": {name for name in whole if "cuda:0" in name} | {"TF32"},
    }
    assert whole.keys() - found.keys() == depending.get(lost, set())
    states = {name: one["state"] for name, one in found.items()}
    changed = {name for name in states if states[name] != whole.get(name, {}).get("state")}
    told = {
        "torch": {"torch", "spconv"},
        "gpus": {"CUDA"},
        "gpu": {"cuda:0"},
        "spconv": {"spconv on cuda:0"},
        "scatter": {"torch-scatter on cuda:0"} & whole.keys(),
        "tensorboard": {"TensorBoard"},
        "ray": {"Ray"},
    }
    assert changed == told[lost]
    said = [found[name]["found"] for name in changed if name != "spconv"]
    assert all("no answer within 0.2 s" in text for text in said), said


def test_doctor_asks_spconv_on_each_gpu() -> None:
    with a_gpu(index=1):  # what computes on the first one does not find its tensors there
        found = examined()
    assert found["spconv on cuda:1"]["state"] == "ok"
    assert "the current device" in found["spconv on cuda:0"]["found"]
    assert "cuda:1: spconv" in found["sparse convolutions"]["found"]


@pytest.mark.parametrize("name", ["2dpass-small", "minkowskinet", "vavit-small"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_waits_no_more(world: Path, gpu: Device, name: str, precision: str) -> None:
    recipe = small_recipe(name, f"precision={precision}", "augment.mode=full")
    with thin_pictures():
        steps = take_steps(world / "cache", recipe, gpu, n=2)
    require_waits(steps.records[-1], prepare=None)
    assert all(torch.isfinite(weights).all() for weights in steps.after.values())


def test_vavit_finds_the_nearest_thinned_points_as_on_a_cpu(world: Path) -> None:
    cell = "network.settings.cell_m=4.0"  # thins the few points of these scans
    recipe = small_recipe("vavit-small", cell, "network.settings.neighbours=3")
    xyz = torch.randint(-12, 12, (400, 3), generator=torch.Generator().manual_seed(0)).float()
    batch = PointBatch(points=torch.cat([xyz, xyz[:, :1]], 1), offsets=torch.tensor([0, 250, 400]))
    with CacheReader.open(world / "cache", dataset="semkitti") as reader:
        on_cpu = fresh_network(reader, recipe, ProcessGroup(device=torch.device("cpu"))).eval()
        wanted = on_cpu.prepare(batch).row_of_point
        with a_gpu(index=1) as here:
            group = ProcessGroup(device=here.torch_device)
            found = fresh_network(reader, recipe, group).eval().prepare(batch.to(SECOND))
            rows = found.row_of_point.cpu()
    assert rows.tolist() == wanted.tolist()
