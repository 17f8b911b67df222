"""Commands as a person types them: the cache, the run and the network that are not named."""

from __future__ import annotations

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cache_samples import write_sample_cache
from pipeline_files import scan_points
from team_samples import in_processes
from train_samples import tiny_recipe
from typed import pass2d

from pass2d.common.errors import ConfigError
from pass2d.common.progress import Silent
from pass2d.train.checkpoints.runs import RunFolder, new_run_folder, newest_network, run_folders
from pass2d.train.distributed.process_group import ProcessGroup, from_main
from pass2d.train.recipes.recipe import to_toml
from pass2d.train.run.choice import choose_run, holds_nothing, newest_alike

NAME = r"tiny-\d{8}-\d{6}(-\d+)?"


def answer(*words: object) -> tuple[dict, list[str]]:
    """The JSON on standard output, and the lines of standard error."""
    done = pass2d(*words, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout), done.stderr.splitlines()


def refusal(*words: object) -> str:
    done = pass2d(*words)
    assert done.exit_code == 1, done.output
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.stdout == ""
    return line


def said(lines: list[str], start: str) -> str:
    (line,) = [line for line in lines if line.startswith(start)]
    return line


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cache/ and the recipe tiny.toml."""
    root = tmp_path_factory.mktemp("place")
    write_sample_cache(root / "cache", n_scans=2, n_points=300)
    (root / "tiny.toml").write_text(
        to_toml(tiny_recipe("epochs=1")).replace("2dpass-small", "tiny", 1)
    )
    return root


@pytest.fixture
def here(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with that cache and recipe, and no run yet."""
    for name in ("cache", "tiny.toml"):
        (tmp_path / name).symlink_to(place / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def trained(place: Path) -> Path:
    """One run in runs/, whose only folder it is."""
    before = Path.cwd()
    os.chdir(place)
    try:
        result, lines = answer("train", "--recipe", "tiny.toml")
    finally:
        os.chdir(before)
    folder = Path(result["run_root"])
    assert lines[0] == f"run: runs/{folder.name}"
    return folder


def test_train_makes_a_folder_of_its_own_and_says_it_first(place: Path, trained: Path) -> None:
    assert trained.parent == place / "runs"
    assert re.fullmatch(NAME, trained.name)
    assert RunFolder(root=trained).best.is_file()


def test_cache_is_what_prepare_writes(here: Path) -> None:
    assert answer("stats")[0]["splits"]["val"]["scans"] == 2
    assert answer("inspect")[0]["place"] == str((here / "cache").resolve())
    for command in ("verify", "status", "gc"):
        assert answer("cache", command)[0]


@pytest.mark.parametrize("kind", ["missing", "empty", "code"])
@pytest.mark.parametrize(
    "command", ["stats", "inspect", "train", "eval", "view", "submit", "robust", "cache verify"]
)
def test_no_cache_here_is_one_error_that_says_what_to_type(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").symlink_to(trained.parent)
    if kind != "missing":
        (tmp_path / "cache").mkdir()
    if kind == "code":  # a checkout: the package of that name
        (tmp_path / "cache" / "reader.py").touch()
    before = sorted(trained.parent.iterdir())
    more = ("--html", "x.html") if command == "view" else ()
    line = refusal(*command.split(), *more)
    assert line.startswith(f"error: {tmp_path / 'cache'}: no ")
    assert "pass2d prepare semkitti" in line
    assert "--cache FOLDER" in line
    assert sorted(trained.parent.iterdir()) == before  # no folder for a run that cannot begin


@pytest.mark.parametrize("option", ["--cache", "--run"])
def test_empty_words_are_not_the_current_folder(here: Path, option: str) -> None:
    assert f"{option} is empty" in refusal("train", option, "")


@pytest.mark.parametrize("option", ["--cache", "--run"])
def test_places_that_cannot_be_are_one_line(here: Path, option: str) -> None:
    (here / "a").symlink_to("b")
    (here / "b").symlink_to("a")
    for place in ("x" * 300, "a"):
        assert place[:50] in refusal("train", "--recipe", "tiny.toml", option, place)


def test_current_folder_that_is_gone_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for words in (("stats",), ("train",), ("prepare", "semkitti", "--root", tmp_path)):
        assert refusal(*words).startswith("error: the current folder: No such file")


def test_networks_are_the_newest_runs(here: Path, trained: Path) -> None:
    (here / "runs").symlink_to(trained.parent)
    scan_points().tofile(here / "some.bin")
    text = f"runs/{trained.name}/checkpoints/best.safetensors (the best network of the newest run"
    text = text.replace("runs/", f"{trained.parent}/")  # through the link
    report, lines = answer("eval")
    assert said(lines, "checkpoint: ") == f"checkpoint: {text})"
    assert report["miou"] is not None
    summary, lines = answer("predict", "some.bin")
    assert summary["scans"] == 1
    assert said(lines, "checkpoint: ") == f"checkpoint: {text})"
    shown, lines = answer("view", "--png", "pictures")
    assert shown["files"]
    assert said(lines, "prediction: ") == f"prediction: {text}; --no-checkpoint shows none)"
    _, lines = answer("view", "--png", "pictures", "--no-checkpoint")
    assert not any("rediction" in line for line in lines)


def test_without_a_run_networks_must_be_named_and_view_shows_the_scans(here: Path) -> None:
    scan_points().tofile(here / "some.bin")
    for words in (("eval",), ("predict", "some.bin"), ("submit",), ("robust",)):
        line = refusal(*words)
        assert f"{here}/runs there is no run" in line
        assert "--checkpoint FILE" in line
    shown, lines = answer("view", "--png", "pictures")
    assert shown["files"]
    assert "no prediction is shown: no run below runs/" in said(lines, "no prediction")


def test_view_passes_over_a_network_that_does_not_fit(here: Path, trained: Path) -> None:
    (here / "runs").symlink_to(trained.parent)
    scan_points().tofile(here / "some.bin")
    words = ("view", "some.bin", "--png", "pictures")
    shown, lines = answer(*words)
    assert shown["files"]
    assert "other classes" in said(lines, "no prediction is shown: ")
    named = trained / "checkpoints" / "best.safetensors"
    assert "other classes" in refusal(*words, "--checkpoint", named)


def make_run(root: Path, settings: str = "", *, age_s: float = 0.0, with_best: bool = True) -> Path:
    """A run's folder by its files' names alone."""
    run = RunFolder(root=root)
    run.best.parent.mkdir(parents=True)
    run.settings.write_text(settings)
    if with_best:
        run.best.touch()
    time = 1_700_000_000 - age_s
    os.utime(run.settings, (time, time))
    return root


def test_newest_run_is_the_one_begun_last_wherever_it_lies(tmp_path: Path) -> None:
    old = make_run(tmp_path / "z", age_s=3)
    middle = make_run(tmp_path / "lr" / "0.1" / "a", age_s=2)
    new = make_run(tmp_path / "a", age_s=1, with_best=False)
    (tmp_path / "notes.txt").touch()
    make_run(tmp_path / "z" / "inner")  # of a run, not a run
    assert [run.root for run in run_folders(tmp_path)] == [new, middle, old]
    found = newest_network(tmp_path)
    assert found is not None
    assert found.path == middle / "checkpoints" / "best.safetensors"
    assert f"{new} has none yet" in found.reason
    assert newest_network(tmp_path / "nowhere") is None


def test_runs_that_begin_in_the_same_second_have_a_folder_each(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as threads:
        made = list(threads.map(lambda _: new_run_folder("tiny", runs=tmp_path / "r"), range(64)))
    assert len(set(made)) == 64
    assert all(re.fullmatch(NAME, folder.name) for folder in made)


@pytest.mark.parametrize(
    ("name", "stem"), [("../x y/ü", "x-y"), ("..", "run"), ("a" * 300, "a" * 80), ("", "run")]
)
def test_any_recipe_name_gives_a_folder(tmp_path: Path, name: str, stem: str) -> None:
    folder = new_run_folder(name, runs=tmp_path)
    assert folder.parent == tmp_path
    assert folder.name.rsplit("-", 2)[0] == stem


def test_place_that_cannot_hold_runs_is_one_error(here: Path) -> None:
    (here / "runs").write_text("a file")
    assert "--run" in refusal("train", "--recipe", "tiny.toml")


class Said(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def test_resume_takes_the_newest_run_of_these_settings(tmp_path: Path) -> None:
    recipe, other = tiny_recipe("epochs=7"), tiny_recipe("epochs=8")
    runs = tmp_path / "runs"
    make_run(runs / "old", to_toml(recipe), age_s=9)
    wanted = make_run(runs / "named/by/hand", to_toml(recipe), age_s=8)
    make_run(runs / "2dpass-small-20260101-000000", to_toml(other), age_s=7)
    make_run(runs / "unreadable", "epochs = many", age_s=6)
    # Where it runs and what it is called are no settings of what is computed.
    again = tiny_recipe("epochs=7", "name=x", "log.every_steps=3")
    heard = Said()
    choice = choose_run(None, again, "", resume=True, progress=heard, runs=runs)
    assert (choice.root, choice.is_resumed, choice.is_new) == (wanted, True, False)
    (line,) = heard.lines
    assert line == f"run: {wanted}, the newest one of these settings"


def test_a_fine_tuned_run_is_not_that_from_scratch(tmp_path: Path) -> None:
    runs, tuned = tmp_path / "runs", tiny_recipe("start_from=x.safetensors")
    root = make_run(runs / "tuned", to_toml(tuned))
    found, note = newest_alike(tiny_recipe(), "", runs=runs)
    assert found is None
    assert "start_from = '' (was 'x.safetensors')" in note
    assert newest_alike(tuned, "", runs=runs) == (RunFolder(root=root), "")


def test_resume_where_all_runs_differ_begins_and_says_how(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    other = make_run(runs / "other", to_toml(tiny_recipe("epochs=8")))
    heard = Said()
    recipe = tiny_recipe("epochs=7")
    choice = choose_run(None, recipe, "", resume=True, progress=heard, runs=runs)
    assert (choice.root.parent, choice.is_resumed, choice.is_new) == (runs, False, True)
    assert f"{other} differs: epochs = 7 (was 8)" in heard.lines[0]
    assert heard.lines[1] == f"run: {choice.root}"
    anyway = tiny_recipe("epochs=7", "resume_anyway=true")
    assert choose_run(None, anyway, "", resume=True, progress=heard, runs=runs).root == other


def test_a_requeued_job_begins_then_goes_on(here: Path) -> None:
    job = ("train", "--recipe", "tiny.toml", "--resume")
    first, lines = answer(*job)
    assert lines[0] == "no run to resume below runs/, so a new one begins"
    again, lines = answer(*job)
    assert again["run_root"] == first["run_root"]
    assert lines[0].startswith("run: runs/tiny-")
    assert "resuming after 1 epochs" in "\n".join(lines)
    longer, lines = answer(*job, "--set", "epochs=2")
    assert longer["run_root"] != first["run_root"]
    assert "differs: epochs = 2 (was 1)" in lines[0]
    # The settings of that run as a recipe file are that run's.
    last = answer("train", "--recipe", f"{first['run_root']}/settings.toml", "--resume")[0]
    assert last["run_root"] == first["run_root"]
    # Another cache: another run.
    write_sample_cache(here / "second", n_scans=3, n_points=300)
    moved, lines = answer(*job, "--cache", "second")
    assert moved["run_root"] not in (first["run_root"], longer["run_root"])
    assert "a cache of other scans" in lines[0]
    assert answer(*job, "--cache", "second")[0]["run_root"] == moved["run_root"]


@pytest.mark.parametrize("state", ["missing", "empty", "log", "failed start", "killed"])
def test_resume_in_a_named_folder_without_a_run_begins(here: Path, state: str) -> None:
    folder = here / "new" / "run"
    if state != "missing":
        folder.mkdir(parents=True)
    if state == "log":
        (folder / "slurm-1.out").touch()
    if state in ("failed start", "killed"):
        (folder / "checkpoints").mkdir()
    if state == "killed":
        (folder / "metrics.jsonl").touch()
    job = ("train", "--recipe", "tiny.toml", "--resume", "--run", folder)
    begun, lines = answer(*job)
    assert begun["run_root"] == str(folder)
    assert lines[0] == "new/run: no run to resume yet, so it begins"
    assert "resuming after 1 epochs" in "\n".join(answer(*job)[1])


def test_folders_that_hold_something_of_runs_are_not_begun_in(tmp_path: Path) -> None:
    runs = make_run(tmp_path / "runs" / "first").parent
    lost = make_run(tmp_path / "lost")
    (lost / "settings.toml").unlink()
    (tmp_path / "file").touch()
    assert not any(holds_nothing(folder) for folder in (runs, lost, tmp_path / "file"))


def test_resume_in_the_folder_of_runs_names_them(here: Path) -> None:
    make_run(here / "runs" / "first")
    line = refusal("train", "--recipe", "tiny.toml", "--resume", "--run", "runs")
    assert "Runs below it: runs/first" in line


def test_a_start_that_fails_leaves_no_folder(here: Path) -> None:
    refusal("train", "--recipe", "tiny.toml", "--set", "validation.split=tset")
    assert list((here / "runs").iterdir()) == []


def test_folder_that_cannot_be_made_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="`run_root`"):
        new_run_folder("tiny", runs=tmp_path / "file" / "runs")


def _folder(group: ProcessGroup, given: dict) -> str:
    own = new_run_folder("tiny", runs=Path(given["runs"])) if group.is_main else None
    return str(from_main(own, group))


def test_processes_agree_on_one_folder(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    folders = in_processes(2, _folder, {"runs": str(runs)}, tmp_path)
    assert folders == [str(folder) for folder in runs.iterdir()] * 2


LOOPS = [
    ("predict", "loop", "--checkpoint", "absent", "--out", "out"),
    ("predict", "loop.bin", "--checkpoint", "absent", "--out", "out"),
    ("predict", "loop.mcap", "--topic", "/points", "--checkpoint", "absent", "--out", "out"),
    ("eval", "--cache", "loop", "--checkpoint", "absent"),
    ("eval", "--checkpoint", "loop"),
    ("stats", "--cache", "loop"),
    ("inspect", "loop"),
    ("cache", "verify", "--cache", "loop"),
    ("train", "--cache", "loop"),
    ("train", "--run", "loop"),
    ("train", "--recipe", "loop.toml"),
    ("prepare", "semkitti", "--root", "loop"),
    ("prepare", "nuscenes", "--root", "loop"),
    ("prepare", "pandaset", "--root", "loop"),
    ("prepare", "waymo", "--root", "loop"),
    ("prepare", "folder", "--describe", "loop.toml"),
    ("prepare", "synth", "--out", "loop"),
    ("describe", "loop"),
    ("import", "loop.ckpt", "--out", "x.safetensors"),
    ("export", "loop.safetensors", "--onnx", "x.onnx"),
    ("view", "--cache", "loop", "--html", "x.html"),
]


@pytest.mark.parametrize("words", LOOPS, ids=" ".join)
def test_a_link_that_leads_back_to_itself_is_one_error(here: Path, words: tuple[str, ...]) -> None:
    for name in ("loop", "loop.bin", "loop.mcap", "loop.toml", "loop.ckpt", "loop.safetensors"):
        (here / name).symlink_to(here / name)
    line = refusal(*words)
    assert "loop" in line or "absent" in line  # of two wrong paths either
