"""Whole runs on a made-up cache: they repeat, resume and stop exactly, and they learn."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from cache_samples import sample_info, write_sample_cache
from heard import Heard
from leftovers import left_by_a_kill
from team_samples import exit_code
from torch import Tensor
from train_samples import (
    assert_same_tensors,
    final_state,
    final_weights,
    tiny_recipe,
)

from pass2d.cache.reader import CacheReader
from pass2d.cache.schema import DatasetInfo
from pass2d.common.errors import CheckpointError, ConfigError, Pass2DError
from pass2d.common.progress import Silent
from pass2d.models.network import Segmentation
from pass2d.train.checkpoints.checkpoint import load_checkpoint, network_from_checkpoint
from pass2d.train.checkpoints.runs import RunFolder
from pass2d.train.data.stream import BatchStream
from pass2d.train.distributed.process_group import ProcessGroup
from pass2d.train.loop import run
from pass2d.train.optim.losses import LossTerms
from pass2d.train.recipes.recipe import NetworkChoice, Recipe, load_recipe
from pass2d.train.run.assemble import assemble
from pass2d.train.run.folder import only_run_in
from pass2d.train.run.state import fresh_state
from pass2d.train.run.step import optimizer_step

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cache_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven training scans (an uneven last batch), two for validation."""
    root = tmp_path_factory.mktemp("cache")
    write_sample_cache(root, n_scans=7, sequences=("00",), n_points=300)
    two = root / "two"
    write_sample_cache(two, n_scans=2, sequences=("00", "08"), n_points=300)
    write_sample_cache(root / "mixed", n_scans=3, sequences=("00", "01", "08"), n_points=300)
    return root


@pytest.fixture(scope="module")
def data(cache_root: Path) -> Path:
    return cache_root / "mixed"


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing disturbed."""
    root = tmp_path_factory.mktemp("whole")
    result = run(data, tiny_recipe(), run_root=root / "run")
    assert result.is_complete
    assert (result.epochs, result.steps) == (2, 6)
    return root / "run"


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


class Killed(BaseException):
    """Ends a run as a kill would: nothing is saved on the way out."""


def records(run_root: Path) -> list[dict]:
    """The metrics, without what a clock decides."""
    lines = [json.loads(line) for line in (run_root / "metrics.jsonl").read_text().splitlines()]
    clocks = ("scans_per_s", "wait_share")
    return [{k: v for k, v in line.items() if k not in clocks} for line in lines]


def test_two_runs_end_with_identical_weights(data: Path, whole: Path, tmp_path: Path) -> None:
    run(data, tiny_recipe("stream.threads=3"), run_root=tmp_path)
    assert_same_tensors(final_state(whole), final_state(tmp_path))
    assert records(whole) == records(tmp_path)


def test_another_seed_ends_elsewhere(data: Path, whole: Path, tmp_path: Path) -> None:
    run(data, tiny_recipe("seed=4"), run_root=tmp_path)
    name = "head.outer.weight"
    assert not torch.equal(final_weights(whole)[name], final_weights(tmp_path)[name])


@pytest.mark.parametrize("advance", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("save_steps", [0, 2])
def test_a_killed_run_resumes_to_the_same_weights_and_metrics(
    data: Path, whole: Path, tmp_path: Path, advance: int, save_steps: int
) -> None:
    """Killed within epochs, at their ends, and while validating."""

    def kill(count: int) -> None:
        if count == advance:
            raise Killed

    recipe = tiny_recipe(f"log.save_steps={save_steps}")
    with pytest.raises(Killed):
        run(data, recipe, run_root=tmp_path, progress=Heard(on_advance=kill))
    result = run(data, recipe, run_root=tmp_path, resume=True)
    assert result.is_complete
    assert_same_tensors(final_state(whole), final_state(tmp_path))
    assert records(whole) == records(tmp_path)


def test_a_kill_between_a_validation_and_its_state_doubles_no_line(
    data: Path, whole: Path, tmp_path: Path
) -> None:
    def kill(text: str) -> None:
        if "validation mIoU" in text:
            raise Killed

    with pytest.raises(Killed):
        run(data, tiny_recipe(), run_root=tmp_path, progress=Heard(on_say=kill))
    assert records(tmp_path)[-1]["kind"] == "val"
    run(data, tiny_recipe(), run_root=tmp_path, resume=True)
    assert records(whole) == records(tmp_path)


def test_a_state_that_a_kill_kept_from_its_name_is_the_newest(data: Path, root: Path) -> None:
    """Killed between the two renames, after a damaged state had become the previous one."""
    checkpoints = root / "checkpoints"
    (checkpoints / "last.safetensors").rename(checkpoints / "next.safetensors")
    (checkpoints / "previous.safetensors").write_bytes(b"")
    left_by_a_kill(checkpoints)
    left_by_a_kill(root)
    heard = Heard()
    run(data, tiny_recipe(), run_root=root, resume=True, progress=heard)
    assert "resuming after 2 epochs" in heard.all()
    assert not list(root.rglob(".*"))


@pytest.mark.parametrize("epochs", [2, 3])
def test_a_best_network_that_is_gone_is_written_again(data: Path, root: Path, epochs: int) -> None:
    """At the end of the run, or by the next validation, though an earlier one was better."""
    (root / "checkpoints" / "best.safetensors").unlink()
    heard = Heard()
    recipe = tiny_recipe(f"epochs={epochs}", "resume_anyway=true", "optimizer.learning_rate=1e-9")
    result = run(data, recipe, run_root=root, resume=True, progress=heard)
    assert load_checkpoint(result.best).card.holds == "inference"
    assert ("is gone: the last network takes its place" in heard.all()) == (epochs == 2)


def run_until_killed(data: Path, run_root: Path, place: str, count: int) -> None:
    """A run that kills itself as kill -9 does, at the count-th time that it comes to a place."""
    torch.set_num_threads(1)
    calls = 0

    def come(to: str) -> None:
        nonlocal calls
        calls += to == place
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)

    fsync, replace_file = os.fsync, Path.replace

    def watched_fsync(descriptor: int) -> None:
        if "/checkpoints/.pass2d-" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            come("half written")
        fsync(descriptor)

    def watched_replace(path: Path, target: Path) -> Path:
        come(f"before {path.name}")
        return replace_file(path, target)

    with (
        mock.patch.object(os, "fsync", watched_fsync),
        mock.patch.object(Path, "replace", watched_replace),
    ):
        heard = Heard(on_advance=lambda _: come("step"))
        run(data, tiny_recipe(), run_root=run_root, progress=heard)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "count"),
    [
        ("step", 1),  # before the first state is written
        ("step", 2),
        ("step", 8),  # in the second epoch, after a validation
        ("half written", 3),
        ("before last.safetensors", 1),
        ("before next.safetensors", 2),  # the newest state has just become the previous one
    ],
)
def test_kill_9_in_real_processes_and_resume(
    data: Path, whole: Path, tmp_path: Path, place: str, count: int
) -> None:
    """Within steps, while a state is written, and between the two renames that put it in place."""
    killed = exit_code(run_until_killed, data, tmp_path, place, count)
    assert killed == -signal.SIGKILL
    run(data, tiny_recipe(), run_root=tmp_path, resume=True)
    assert_same_tensors(final_state(whole), final_state(tmp_path))
    assert records(whole) == records(tmp_path)
    assert not list((tmp_path / "checkpoints").glob(".*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_ends_and_resume_goes_on(
    data: Path, whole: Path, tmp_path: Path, number: signal.Signals
) -> None:
    def interrupt(count: int) -> None:
        if count == 2:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    recipe = tiny_recipe("log.save_steps=0")
    result = run(data, recipe, run_root=tmp_path, progress=Heard(on_advance=interrupt))
    assert not result.is_complete
    assert (result.stopped_by, result.steps) == (number.name, 2)
    assert result.best.is_file()
    assert signal.getsignal(number) == before
    assert run(data, recipe, run_root=tmp_path, resume=True).is_complete
    assert_same_tensors(final_state(whole), final_state(tmp_path))


def test_a_signal_while_validating_ends_at_once(data: Path, whole: Path, tmp_path: Path) -> None:
    def interrupt(title: str) -> None:
        if title == "evaluate":
            os.kill(os.getpid(), signal.SIGINT)

    result = run(data, tiny_recipe(), run_root=tmp_path, progress=Heard(on_start=interrupt))
    assert (result.stopped_by, result.steps, result.best_miou) == ("SIGINT", 3, None)
    run(data, tiny_recipe(), run_root=tmp_path, resume=True)
    assert_same_tensors(final_state(whole), final_state(tmp_path))
    assert records(whole) == records(tmp_path)


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_a_damaged_state_is_passed_over_and_said(
    data: Path, root: Path, whole: Path, damage: str
) -> None:
    last = root / "checkpoints" / "last.safetensors"
    content = bytearray(last.read_bytes())
    content[-5] ^= 1
    kept = {"flipped": len(content), "cut": len(content) // 2, "empty": 0}[damage]
    last.write_bytes(bytes(content[:kept]))
    heard = Heard()
    assert run(data, tiny_recipe(), run_root=root, resume=True, progress=heard).is_complete
    assert "last.safetensors: truncated or damaged" in heard.all()
    assert "previous.safetensors" in heard.all()
    assert_same_tensors(final_state(whole), final_state(root))
    for name in ("last", "previous"):
        (root / "checkpoints" / f"{name}.safetensors").write_bytes(b"\0" * 4000)
    with pytest.raises(CheckpointError, match=r"last\.safetensors"):
        run(data, tiny_recipe(), run_root=root, resume=True)


def renamed_class() -> DatasetInfo:
    info = sample_info()
    names = (*info.labels.names[:-1], "bush")
    return replace(info, labels=replace(info.labels, names=names))


def test_resuming_with_other_settings_or_data_is_refused(
    data: Path, root: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        ConfigError, match=r"optimizer.learning_rate = 0.1 \(was 0.05\).*start_from"
    ):
        run(data, tiny_recipe("optimizer.learning_rate=0.1"), run_root=root, resume=True)
    others = {
        "cache fingerprint": {"profile": "size"},
        "grid 500x500x60": {"info": sample_info(grid_shape=(500, 500, 60))},
        r"class table of 5 classes \(was 5; differs: \['bush', 'tree'\]\)": {
            "info": renamed_class()
        },
    }
    for index, (message, options) in enumerate(others.items()):
        other = tmp_path / f"cache{index}"
        write_sample_cache(other, n_scans=3, sequences=("00", "01", "08"), n_points=300, **options)
        with pytest.raises(ConfigError, match=f"{message}.*resume_anyway=true"):
            run(other, tiny_recipe(), run_root=root, resume=True)


def test_two_runs_never_work_in_one_folder(data: Path, root: Path) -> None:
    heard = Heard()
    with (
        only_run_in(RunFolder(root=root), ProcessGroup(device=torch.device("cpu"))),
        pytest.raises(ConfigError, match="another run is at work in this folder"),
    ):
        run(data, tiny_recipe(), run_root=root, resume=True, progress=heard)
    assert heard.lines == []
    assert run(data, tiny_recipe(), run_root=root, resume=True).is_complete


def test_a_run_whose_checkpoints_lie_behind_a_link_goes_on_there(
    data: Path, whole: Path, tmp_path: Path
) -> None:
    root, disk = tmp_path / "run", tmp_path / "disk"
    shutil.copytree(whole, root)
    (root / "checkpoints").rename(disk)
    (root / "checkpoints").symlink_to(disk)
    (disk / ".other.tmp").write_text("of another program")
    left_by_a_kill(disk)
    recipe = tiny_recipe("epochs=3", "resume_anyway=true")
    heard = Heard()
    assert run(data, recipe, run_root=root, resume=True, progress=heard).epochs == 3
    assert f"checkpoints go to {disk}: {root}/checkpoints is a link" in heard.all()
    assert (root / "checkpoints").is_symlink()
    assert load_checkpoint(disk / "last.safetensors").card.run["cursor"] == 18
    assert {path.name for path in disk.glob(".*")} == {".other.tmp"}
    second = tmp_path / "second"
    second.mkdir()
    (second / "checkpoints").symlink_to(disk)
    alone = ProcessGroup(device=CPU)
    with (
        only_run_in(RunFolder(root=root), alone),
        pytest.raises(ConfigError, match="second/checkpoints: another run is at work"),
    ):
        run(data, tiny_recipe(), run_root=second)
    disk.rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=f"checkpoints: a link to {disk}, where no folder is"):
        run(data, recipe, run_root=root, resume=True)


def test_without_a_state_only_the_run_that_had_none_begins_anew(
    data: Path, root: Path, whole: Path
) -> None:
    checkpoints = root / "checkpoints"
    for name in ("last", "previous"):
        (checkpoints / f"{name}.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"neither last\.safetensors nor previous.*start_from"
    ):
        run(data, tiny_recipe(), run_root=root, resume=True)
    (checkpoints / "best.safetensors").unlink()
    heard = Heard()
    run(data, tiny_recipe(), run_root=root, resume=True, progress=heard)
    assert "starting over" in heard.all()
    assert_same_tensors(final_state(whole), final_state(root))


def test_resume_anyway_counts_epochs_of_the_new_scans(
    data: Path, root: Path, tmp_path: Path
) -> None:
    larger = tmp_path / "cache"
    write_sample_cache(larger, n_scans=5, sequences=("00", "01", "08"), n_points=300)
    with pytest.raises(ConfigError, match=r"10 training scans \(was 6\).*resume_anyway"):
        run(larger, tiny_recipe("epochs=3"), run_root=root, resume=True)
    recipe = tiny_recipe("epochs=3", "resume_anyway=true")
    result = run(larger, recipe, run_root=root, resume=True)
    assert result.is_complete
    assert (result.epochs, result.steps) == (3, 15)
    assert [r["epoch"] for r in records(root) if r["kind"] == "val"] == [1, 2, 3]
    # The settings of the run, taken as a recipe, override nothing by themselves.
    with pytest.raises(ConfigError, match=r"cache fingerprint.*resume_anyway"):
        run(data, load_recipe(str(root / "settings.toml")), run_root=root, resume=True)


def test_resume_anyway_may_switch_an_average_on(data: Path, root: Path) -> None:
    recipe = tiny_recipe("epochs=3", "average.kind=ema", "resume_anyway=true")
    assert run(data, recipe, run_root=root, resume=True).is_complete
    state = load_checkpoint(root / "checkpoints" / "last.safetensors")
    steps_per_epoch = 3
    assert state.card.run["average_count"] == steps_per_epoch


def test_a_network_in_place_of_a_state_is_passed_over(data: Path, root: Path, whole: Path) -> None:
    checkpoints = root / "checkpoints"
    shutil.copy(checkpoints / "best.safetensors", checkpoints / "last.safetensors")
    heard = Heard()
    run(data, tiny_recipe(), run_root=root, resume=True, progress=heard)
    assert "last.safetensors: holds a network for inference" in heard.all()
    assert_same_tensors(final_state(whole), final_state(root))


def test_resuming_a_network_of_other_sizes_says_which(data: Path, root: Path) -> None:
    recipe = tiny_recipe("network.settings.hidden=6", "resume_anyway=true")
    with pytest.raises(CheckpointError, match=r"bias is \(2,\), expected \(3,\).*start_from"):
        run(data, recipe, run_root=root, resume=True)


def test_a_run_is_never_overwritten_and_never_resumed_without_its_settings(
    data: Path, whole: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"holds a run already.*`resume`"):
        run(data, tiny_recipe(), run_root=whole)
    shutil.copytree(whole, tmp_path / "run")
    other = tiny_recipe(
        *("accumulate=2", "augment.scale=0.2", "batch_size=3", "loss.label_smoothing=0.1"),
        *("optimizer.momentum=0.5", "optimizer.weight_decay=0.1", "augment.translate_m=0.3"),
    )
    with pytest.raises(ConfigError, match=r"accumulate = 2 .*; and 1 more\. Resume with"):
        run(data, other, run_root=tmp_path / "run", resume=True)
    (tmp_path / "run" / "settings.toml").unlink()
    with pytest.raises(ConfigError, match="no run to resume"):
        run(data, tiny_recipe(), run_root=tmp_path / "run", resume=True)


def test_the_run_folder_holds_settings_metrics_and_an_inference_network(whole: Path) -> None:
    assert load_recipe(str(whole / "settings.toml")).optimizer.learning_rate == 0.05
    kinds = [record["kind"] for record in records(whole)]
    assert kinds == ["train"] * 3 + ["val"] + ["train"] * 3 + ["val"]
    rates = [record["lr"] for record in records(whole) if record["kind"] == "train"]
    assert rates[0] == 0.05
    assert rates == sorted(rates, reverse=True)
    best = whole / "checkpoints" / "best.safetensors"
    network, card = network_from_checkpoint(best, CPU)
    assert not network.training
    assert card.holds == "inference"
    assert set(load_checkpoint(best).part("network.")) == set(network.inference_state())
    assert card.metrics["val/miou_official"] > 0
    assert card.input_statistics is not None
    assert card.input_statistics["range"].mean > 10
    assert card.info.labels.names[1] == "road"


def test_a_broken_tensorboard_is_one_error_and_leaves_no_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorboard.py").write_text("raise TypeError('Descriptors cannot be created')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if "tensorboard" in name]:
        monkeypatch.delitem(sys.modules, name)
    root = tmp_path / "run"
    with pytest.raises(ConfigError, match=r"Descriptors.*Set log\.tensorboard=false"):
        run(data, tiny_recipe("log.tensorboard=true"), run_root=root)
    assert not root.exists()


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(("room", "failing"), [(0, "settings.toml"), (5_000, "next.safetensors")])
def test_a_start_on_a_full_disk_does_not_refuse_the_next(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    room: int,
    failing: str,
    resume: bool,
) -> None:
    """No file may become larger than that, as if there were no more room."""
    monkeypatch.chdir(tmp_path)
    recipe, root = tiny_recipe("epochs=1"), tmp_path / "run"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for named in (root, None):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        try:
            with pytest.raises(Pass2DError, match=rf"{failing}.*File too large"):
                run(data, recipe, run_root=named, resume=resume)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    if not room:
        assert not list((tmp_path / "runs").iterdir())
        assert not root.exists()
    assert run(data, recipe, run_root=root, resume=resume).is_complete
    assert [record["kind"] for record in records(root)] == ["train"] * 3 + ["val"]


def test_tensorboard_events_are_written(data: Path, tmp_path: Path) -> None:
    run(data, tiny_recipe("log.tensorboard=true", "epochs=1"), run_root=tmp_path)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"train/loss", "train/lr", "val/miou_official"} <= set(events.Tags()["scalars"])


@pytest.mark.parametrize(
    "overrides",
    [
        ("optimizer.kind=adam", "optimizer.learning_rate=0.01"),
        ("accumulate=2", "batch_size=1"),
        ("average.kind=ema", "average.decay=0.9"),
        ("average.kind=swa", "average.start_share=0"),
        ("augment.mode=lattice",),
        ("augment.mode=none",),
        ("augment.mixes=[{instance-copy=1}]",),
        ("schedule.kind=plateau",),
        ("precision=bf16",),
    ],
    ids=lambda o: o[0],
)
def test_every_option_trains_and_resumes_exactly(
    data: Path, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    assert_resumes_exactly(data, tiny_recipe(*overrides), tmp_path)


@pytest.mark.parametrize("config", ["minkowskinet", "spvcnn"])
def test_sparse_unets_train_on_all_points_and_resume_exactly(
    data: Path, tmp_path: Path, config: str
) -> None:
    """SPVCNN has dropout layers: their draws too must come again."""
    network = NetworkChoice(config=config, settings={"width_factor": 0.125})
    assert_resumes_exactly(data, replace(tiny_recipe(), network=network), tmp_path)


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_averaged_weights_are_exported_without_a_validation_too(
    data: Path, tmp_path: Path, kind: str
) -> None:
    """Training on train and val leaves nothing to validate on."""
    recipe = tiny_recipe(
        f"average.kind={kind}",
        "average.start_share=0",
        "average.decay=0.5",
        'data.train_splits=["train", "val"]',
        "validation.every_epochs=0",
        "log.save_steps=0",
        "batch_size=9",
    )
    result = run(data, recipe, run_root=tmp_path)
    best = load_checkpoint(result.best).part("network.")
    folder = tmp_path / "checkpoints"
    first, last = (
        load_checkpoint(folder / f"{name}.safetensors").part("network.")
        for name in ("previous", "last")
    )
    names = [name for name in best if name.endswith("weight")]
    assert any(not torch.equal(first[name], last[name]) for name in names)
    for name in names:  # one step an epoch; the first set replaces the mean
        torch.testing.assert_close(best[name], (first[name] + last[name]) / 2)


def test_accumulated_batches_step_as_one_large_batch(data: Path) -> None:
    """With fixed BatchNorm statistics, and a loss that is a mean over scans."""
    steps = [first_step(data, batch_size=size, accumulate=2 // size) for size in (1, 2)]
    assert len(steps[0]) > 20
    for one, two in zip(*steps, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4 * float(two.abs().max()))


def first_step(data: Path, *, batch_size: int, accumulate: int) -> list[Tensor]:
    """SGD's momentum after one step: the step's gradient (and the weights' decay)."""

    def mean_over_scans(segmentation: Segmentation, *_: object, **__: object) -> LossTerms:
        return LossTerms(total=segmentation.logits.square().sum() / batch_size, parts={})

    recipe = tiny_recipe(f"batch_size={batch_size}", f"accumulate={accumulate}")
    with CacheReader.open(data) as reader:
        job = assemble(reader, recipe, ProcessGroup(device=CPU), Silent())
        job.network.eval()
        state = fresh_state(job)
        stream = BatchStream(reader, job.plan, recipe.stream, cursor=0, device=CPU)
        with (
            mock.patch("pass2d.train.run.step.compute_loss", mean_over_scans),
            mock.patch.object(job.network, "train"),
        ):
            assert optimizer_step(job, state, stream) == 2
        stream.close()
    moments = state.optimizer.state.values()
    return [moment["momentum_buffer"] for moment in moments if "momentum_buffer" in moment]


def assert_resumes_exactly(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    """Killed in its second epoch, the run ends where the undisturbed one does."""

    def kill(count: int) -> None:
        if count == 7:
            raise Killed

    run(data, recipe, run_root=tmp_path / "whole")
    with pytest.raises(Killed):
        run(data, recipe, run_root=tmp_path / "killed", progress=Heard(on_advance=kill))
    run(data, recipe, run_root=tmp_path / "killed", resume=True)
    assert_same_tensors(final_state(tmp_path / "whole"), final_state(tmp_path / "killed"))
    for name, tensor in final_state(tmp_path / "whole").items():
        assert torch.isfinite(tensor.float()).all(), name
