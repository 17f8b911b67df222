"""`prepare folder --check`: what could stop a run later is found in a minute."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from described_samples import DESCRIPTION, N, write_description, write_yard
from typed import answer, refusal
from typer.testing import CliRunner

from pass2d.cli import app
from pass2d.pipeline.datasets.described.facts import table_of
from pass2d.pipeline.datasets.described.sources import load_description
from pass2d.pipeline.stages.read_described import described_labels


def check(description: Path, root: Path, *words: str) -> tuple[int, str]:
    place = ("--describe", str(description), "--root", str(root))
    result = CliRunner().invoke(app, ["prepare", "folder", *place, "--check", *words])
    return result.exit_code, result.stdout


def problems(description: Path, root: Path) -> list[tuple[str, str]]:
    """Severity, file and what was found."""
    _, text = check(description, root, "--json")
    found = json.loads(text)["problems"]
    return [(one["severity"], f"{one['file']} {one['found']}") for one in found]


def test_a_table_of_the_splits(tmp_path: Path) -> None:
    truth = write_yard(tmp_path)
    code, text = check(write_description(tmp_path), tmp_path, "--png", str(tmp_path / "png"))
    assert code == 0
    lines = text.splitlines()
    assert lines[0].startswith("split ")
    scans = [truth["a/0001"], truth["a/0002"]]
    nothing = np.mean([np.isin(scan.raw, (0, 63)).mean() for scan in scans])
    outside = np.mean([(np.abs(scan.points[:, :2]) >= 20).any(axis=1).mean() for scan in scans])
    words = next(line for line in lines if line.startswith("train ")).split()
    assert words[1:7] == ["2", "2", "2", f"{2 * N}", f"{nothing:.1%}", f"{outside:.1%}"]
    hedge = np.mean([np.isin(scan.raw, (7, 9)).mean() for scan in scans])
    assert any(f"hedge {hedge:.2%}" in line for line in lines)
    assert sorted(file.name for file in (tmp_path / "png").iterdir()) == ["a.png", "b.png"]
    heights = np.concatenate([scan.points[:, 2] for scan in scans])
    found = next(line for line in lines if line.startswith("train: height"))
    assert f", {np.median(heights):.3g}, " in found


def test_ids_without_a_name_are_said_once_with_their_points(tmp_path: Path) -> None:
    truth = write_yard(tmp_path)
    text = DESCRIPTION.replace("raw = [1]", "raw = [2]")
    found = problems(write_description(tmp_path, text), tmp_path)
    counts = {s: int(sum((truth[i].raw == 1).sum() for i in truth if i[0] == s)) for s in "ab"}
    errors = [text for severity, text in found if severity == "error"]
    assert f"raw id 1, at {counts['a']:,} points of 2 scans of split train" in errors[0]
    assert f"raw id 1, at {counts['b']:,} points of 1 scans of split val" in errors[1]
    assert len(errors) == 4  # and train and val are without labels that can be read
    ignoring = text.replace('dtype = "u2"', 'dtype = "u2"\nunnamed = "ignore"')
    found = problems(write_description(tmp_path, ignoring), tmp_path)
    assert [text for severity, text in found if severity == "error"] == []
    assert any("no point of cart in split train" in text for _, text in found)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('unit = "cm"', 'unit = "m"', "none of them in the volume"),
        ("high = [20, 20, 3]", "high = [-9, 20, 3]", "of split train outside the volume"),
        ("mask = 0x3F", "mask = 0xFF", "raw id"),
        ('dtype = "u2"', 'dtype = "u4"', "200 labels"),
        ('columns = ["time", "x"', 'columns = ["x"', "400 labels"),
        ("poses.txt", "places.txt", "no such file"),
        ('"left.K"', '"right.K"', "unknown key 'right'"),
        ("left/{scan}_*.png", "left/{scan}.png", "has a usable picture"),
        ("truth/{scan}.label", "true/{scan}.label", "scans without labels"),
    ],
)
def test_what_would_stop_a_run_is_found(tmp_path: Path, old: str, new: str, expected: str) -> None:
    write_yard(tmp_path)
    assert old in DESCRIPTION
    found = problems(write_description(tmp_path, DESCRIPTION.replace(old, new)), tmp_path)
    assert any(expected in text for _, text in found), found


def test_labels_that_are_missing_in_train_and_val_are_errors(tmp_path: Path) -> None:
    write_yard(tmp_path)
    text = DESCRIPTION.replace("truth/{scan}.label", "true/{scan}.label")
    found = problems(write_description(tmp_path, text), tmp_path)
    errors = [text for severity, text in found if severity == "error"]
    assert [("train" in text, "val" in text) for text in errors] == [(True, False), (False, True)]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("drives/{sequence}/clouds", "rides/{sequence}/clouds", "nothing matches [points] files"),
        ("clouds/{scan}.bin", "clouds/{scan}.pcd", "no {scan}.pcd here"),
        ('{ sequences = ["b"] }', '{ sequences = ["a"] }', "is in split train and in split val"),
        (
            '{ sequences = ["b"] }',
            '{ list = "val.txt" }',
            "val.txt, the list of split val: cannot be read",
        ),
        ('{ sequences = ["b"] }', '{ list = "yard.toml" }', "lines names a scan"),
        (
            '{ sequences = ["b"] }',
            '{ list = "pipe" }',
            "the list of split val: cannot be read (It is a pipe",
        ),
    ],
)
def test_folders_that_are_not_as_described(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    write_yard(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    description = write_description(tmp_path, DESCRIPTION.replace(old, new))
    for words in (["--check"], ["--cache", str(tmp_path / "cache"), "--workers", "0"]):
        place = ("--describe", str(description), "--root", str(tmp_path))
        result = CliRunner().invoke(app, ["prepare", "folder", *place, *words])
        assert result.exit_code == 1
        assert isinstance(result.exception, SystemExit)
        assert message in result.output
        assert len(result.output.strip().splitlines()) == 1
    assert not (tmp_path / "cache").exists()


def test_labels_whose_points_are_gone_are_said(tmp_path: Path) -> None:
    write_yard(tmp_path)
    description = write_description(tmp_path)
    assert "label file" not in check(description, tmp_path)[1]
    (tmp_path / "drives/a/clouds/0001.bin").unlink()
    said = "drives/a/clouds/0001.bin: no such file, though there are labels, drives/a/truth/0001"
    assert said in check(description, tmp_path)[1]
    # Nobody can know where points would be whose folder has a word that the labels do not have.
    text = DESCRIPTION.replace("drives/{sequence}/clouds/{scan}", "drives/{sequence}/{kind}/{scan}")
    said = "drives/{sequence}/{kind}/{scan}.bin: no such file, though there are labels"
    assert said in check(write_description(tmp_path, text), tmp_path)[1]


def test_splits_by_list_glob_and_share(tmp_path: Path) -> None:
    write_yard(tmp_path)
    (tmp_path / "mine.lst").write_text("# two words\nother/drives/a/clouds/0002.bin x\nb/0001\n")
    for train, val, expected in (
        ('{ list = "mine.lst" }', '{ glob = "drives/a/*/0001.bin" }', (2, 1)),
        ("{ share = 0.5 }", "{ share = 0.5 }", (1, 2)),
        ('{ glob = "a/*" }', '{ glob = "b/0001" }', (2, 1)),
    ):
        text = DESCRIPTION.replace('{ sequences = ["a"] }', train)
        text = text.replace('{ sequences = ["b"] }', val)
        _, shown = check(write_description(tmp_path, text), tmp_path)
        rows = {line.split()[0]: line.split() for line in shown.splitlines()[:3]}
        assert (int(rows["train"][1]), int(rows["val"][1])) == expected


def test_another_number_of_columns_is_a_warning(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        xyz = rng.normal(0, (9, 9, 0.4), (3000, 3)) - (0, 0, 1.7)
        rows = np.column_stack([xyz, rng.uniform(0, 1, 3000), rng.integers(0, 32, 3000)])
        rows[:2500].astype("<f4").tofile(tmp_path / f"{name}.bin")
    text = """
    [dataset]
    name = "five"
    [points]
    files = "{scan}.bin"
    [splits]
    test = { glob = "*" }
    """
    found = problems(write_description(tmp_path, text), tmp_path)
    assert any("look like 5 float32 per point" in text for _, text in found)
    text = text.replace('bin"', 'bin"\ncolumns = ["x", "y", "z", "signal", "ring"]')
    found = problems(write_description(tmp_path, text), tmp_path)
    assert not any("look like" in text for _, text in found)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('train = { sequences = ["a"] }\n', "", "error: split train: no scans; [splits] train"),
        ('val = { sequences = ["b"] }\n', "", "warning: split val: no scans; no run is validated"),
        ('{ sequences = ["b"] }', '{ glob = "q/*" }', "error: split val: no scans; [splits] val"),
        ("left/{scan}_*", "right/{scan}_*", "warning: none of 3 scans has a usable; [[camera]]"),
        (
            "raw = [1]",
            "raw = [1, 77]\n[[class]]\nname = 'ghost'\nraw = [78]",
            "warning: no point of ghost in split train; Leave the class out",
        ),
        ("clouds/{scan}.bin", "{any}/{scan}.bin", "error: a scan id occurs twice; refuses"),
    ],
)
def test_what_only_a_later_command_would_miss_is_said_with_its_remedy(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    write_yard(tmp_path)
    if "{any}" in new:
        shutil.copytree(tmp_path / "drives" / "a" / "clouds", tmp_path / "drives" / "a" / "copy")
    assert old in DESCRIPTION
    file = write_description(tmp_path, DESCRIPTION.replace(old, new))
    code, text = check(file, tmp_path, "--json")
    severity, found, remedy = said.replace(": ", "; ", 1).split("; ")
    fitting = [one for one in json.loads(text)["problems"] if found in one["found"]]
    assert [one["severity"] for one in fitting] == [severity]
    assert remedy in fitting[0]["remedy"]
    assert code == (severity == "error")


@pytest.mark.parametrize(
    ("changes", "found", "refused"),
    [
        (
            {"raw = [7, 9]\nwrite = 9": "raw = [2]", "raw = [1]": "raw = [4]"},
            "labelled points has a class",
            "labelled points has a class",
        ),
        (
            {'train = { sequences = ["a"] }': ""},
            "split train: no scans",
            "no labelled scan in split train",
        ),
    ],
)
def test_what_train_refuses_fails_the_check(
    tmp_path: Path, changes: dict[str, str], found: str, refused: str
) -> None:
    """Labels of which none has a class, and a data set without a training scan."""
    write_yard(tmp_path)
    text = DESCRIPTION.replace('dtype = "u2"', 'dtype = "u2"\nunnamed = "ignore"')
    for old, new in changes.items():
        text = text.replace(old, new)
    file = write_description(tmp_path, text)
    place = ("--describe", file, "--root", tmp_path)
    errors = [text for severity, text in problems(file, tmp_path) if severity == "error"]
    assert all(found in text for text in errors), errors
    prepared = answer("prepare", "folder", *place, "--cache", tmp_path / "cache", "--workers", "0")
    said = [one for one in prepared["warnings"] if found in one["found"]]
    assert len(said) == len(errors) > 0
    assert {one["severity"] for one in said} == {"warning"}
    place = ("--cache", tmp_path / "cache", "--run", tmp_path / "run")
    assert refused in refusal("train", *place, "--recipe", "spvcnn")


@pytest.mark.parametrize("n_poses", [0, 1])
def test_poses_of_fewer_scans_are_a_warning(tmp_path: Path, n_poses: int) -> None:
    write_yard(tmp_path)
    poses = tmp_path / "drives" / "a" / "poses.txt"
    poses.write_text("1 0 0 0 0 1 0 0 0 0 1 0\n" * n_poses)
    found = problems(write_description(tmp_path), tmp_path)
    assert [severity for severity, text in found if "poses.txt" in text] == ["warning"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("0 0 0 {} 0 0 0 0 0 0 0 0", "not a rigid motion"),
        ("-1 0 0 {} 0 1 0 0 0 0 1 0", "not a rigid motion"),
        ("1e160 0 0 {} 0 1 0 0 0 0 1 0", "not a rigid motion"),
        ("1 0 0 {}e300 0 1 0 0 0 0 1 0", "from where it was"),
        ("1 0 0 {}000 0 1 0 0 0 0 1 0", "from where it was"),
    ],
)
def test_poses_that_cannot_be_are_a_warning_and_with_sweeps_an_error(
    tmp_path: Path, line: str, words: str
) -> None:
    write_yard(tmp_path)
    poses = tmp_path / "drives" / "a" / "poses.txt"
    poses.write_text("".join(line.format(place) + "\n" for place in range(3)))
    description = write_description(tmp_path)
    found = problems(description, tmp_path)
    assert [(severity, words in text) for severity, text in found if "poses.txt" in text] == [
        ("warning", True)
    ]
    arguments = ("--describe", description, "--root", tmp_path, "--check", "--sweeps", "2")
    assert words in refusal("prepare", "folder", *arguments)


@pytest.mark.parametrize(("step", "is_odd"), [(-1, False), (1, True)])
def test_poses_by_which_the_lidar_moves_backwards_are_a_warning(
    tmp_path: Path, step: int, is_odd: bool
) -> None:
    write_yard(tmp_path)
    folder = tmp_path / "drives" / "a"
    for place in range(3, 7):
        for file in (*folder.glob("clouds/0001.*"), *folder.glob("truth/0001.*")):
            shutil.copy(file, file.with_stem(f"{place:04d}"))
    # By the description x of the lidar is -y of the files.
    rows = (f"1 0 0 0 0 1 0 {step * place} 0 0 1 0\n" for place in range(6))
    (folder / "poses.txt").write_text("".join(rows))
    found = problems(write_description(tmp_path), tmp_path)
    said = [severity for severity, text in found if "sideways, backwards or up" in text]
    assert said == ["warning"] * is_odd


def test_another_number_of_columns_is_said_without_an_option_that_does_not_exist(
    tmp_path: Path,
) -> None:
    write_yard(tmp_path)
    text = DESCRIPTION.replace('"z", "signal"', '"z", "signal", "ring", "echo"')
    found = problems(write_description(tmp_path, text), tmp_path)
    assert any("it looks like 5 float64 per point" in words for _, words in found), found
    assert not any("--columns" in words for _, words in found)


def test_sequences_are_found_in_either_form_of_unicode(tmp_path: Path) -> None:
    write_yard(tmp_path)
    (tmp_path / "drives" / "a").rename(tmp_path / "drives" / "Zu\u0308rich")  # as macOS writes it
    text = DESCRIPTION.replace('["a"]', '["Z\u00fcrich"]')
    code, said = check(write_description(tmp_path, text), tmp_path)
    assert code == 0, said
    assert "no sequence" not in said


def test_as_many_classes_as_a_byte_tells_apart_are_prepared(tmp_path: Path) -> None:
    """254 beside the ignored one; of one more the description is refused at once."""
    write_yard(tmp_path)
    more = "".join(f"[[class]]\nname = 'c{i}'\nraw = [{i}]\n" for i in range(100, 352))
    text = DESCRIPTION.replace("[splits]", more + "[splits]")
    place = ("--root", str(tmp_path), "--cache", str(tmp_path / "cache"), "--workers", "0")
    words = ["prepare", "folder", "--describe", str(write_description(tmp_path, text)), *place]
    assert CliRunner().invoke(app, words).exit_code == 0
    one_more = text.replace("[splits]", "[[class]]\nname = 'last'\nraw = [400]\n[splits]")
    code, _ = check(write_description(tmp_path, one_more), tmp_path)
    assert code == 1


INTEGERS = ("i1", "u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8")


@pytest.mark.parametrize("suffix", [".label", ".npy", ".npz"])
@pytest.mark.parametrize("dtype", [*INTEGERS, ">i2", ">u2", ">i4", ">u4", ">i8", ">u8"])
def test_labels_of_every_integer_type_are_read_right(
    tmp_path: Path, dtype: str, suffix: str
) -> None:
    """Raw id below, instance above, the type's top bit set: shifts and masks of signed ones too."""
    bits = 8 * np.dtype(dtype).itemsize
    shift = bits // 2
    raw, instance = np.array([0, 3, 7, 9, 1]), np.array([0, 1, 5, 2, 0])
    top = 1 << (bits - 1)
    packed = [int(r) | int(i) << shift | top for r, i in zip(raw, instance, strict=True)]
    values = np.array(packed, f"u{bits // 8}").view(f"i{bits // 8}")
    values = (values if "i" in dtype else values.view(f"u{bits // 8}")).astype(dtype)
    file = tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(file, values)
    elif suffix == ".npz":
        np.savez(file, labels=values)
    else:
        values.tofile(file)
    text = DESCRIPTION.replace('dtype = "u2"\nmask = 0x3F\ninstance = { shift = 8 }', "LABELS")
    assert "LABELS" in text
    labels = f'dtype = "{dtype}"\ninstance = {{ shift = {shift}, mask = 0x7 }}'
    text = text.replace("LABELS", labels).replace("raw = [0, 63]", "raw = [0, 3]")
    info = table_of(load_description(write_description(tmp_path, text))).info
    found = described_labels(file, info, info.raw_format)
    assert (found & 0xFFFF).tolist() == raw.tolist()
    assert (found >> 16).tolist() == instance.tolist()


def test_of_many_warnings_of_a_kind_the_text_shows_three(tmp_path: Path) -> None:
    for scan in range(5):
        xyz = np.random.default_rng(scan).uniform(-9, 9, (100, 4))
        xyz[:, 2] = -1.7
        xyz[5:, 0] += 60  # 95 of 100 points outside
        xyz.astype("<f4").tofile(tmp_path / f"{scan}.bin")
    text = """
    [dataset]
    name = "far"
    [points]
    files = "{scan}.bin"
    [splits]
    test = { glob = "*" }
    """
    file = write_description(tmp_path, text)
    few = "5.0% of the points in the volume"
    assert sum(few in found for _, found in problems(file, tmp_path)) == 5
    lines = check(file, tmp_path)[1].splitlines()
    assert sum(few in line for line in lines) == 3
    assert any("more like these" in line for line in lines)
