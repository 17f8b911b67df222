"""Commands on a logical CUDA device, the second of its machine; what they say beside a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from logical_cuda import Device
from logical_runs import SHORT, a_gpu, require_waits, small_recipe, take_steps, thin_pictures
from pipeline_files import write_sequence
from typed import answer, pass2d

from pass2d.cache.reader import CacheReader
from pass2d.commands.doctor.probes import probe_spconv
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


@pytest.mark.usefixtures("gpu")
def test_doctor_asks_spconv_on_the_gpu_that_it_names() -> None:
    found = probe_spconv(SECOND)
    assert found["forward_error"] < 1e-5
    assert found["backward_error"] < 1e-5


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
