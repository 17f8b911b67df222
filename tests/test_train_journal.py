"""What a run writes down when numbers are none or the disk fails."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from pathlib import Path

import pytest

from pass2d.common.errors import ConfigError
from pass2d.common.progress import Silent
from pass2d.train.checkpoints.runs import RunFolder
from pass2d.train.run.journal import Journal, lines_up_to


def test_numbers_that_json_lacks_are_null(tmp_path: Path) -> None:
    folder = RunFolder(root=tmp_path)
    journal = Journal(folder, Silent(), step=0, tensorboard=False)
    journal.write("train", 1, {"loss": float("nan"), "parts": {"ce": float("inf"), "xm": [0.5]}})

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    record = json.loads(folder.metrics.read_text(), parse_constant=refuse)
    assert record == {"kind": "train", "step": 1, "loss": None, "parts": {"ce": None, "xm": [0.5]}}


def test_events_that_cannot_be_written_are_one_clear_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(root=tmp_path)
    hook = threading.excepthook
    journal = Journal(folder, Silent(), step=0, tensorboard=True)
    folder.tensorboard.rename(tmp_path / "gone")  # at once: its thread may be writing there
    folder.tensorboard.write_text("in the way")
    with contextlib.suppress(ConfigError):  # the thread may have failed already, or fail later
        journal.write("train", 1, {"loss": 1.0})
    with pytest.raises(ConfigError, match="tensorboard: cannot be written: No"):
        journal.close()
    assert "Traceback" not in capfd.readouterr().err
    assert threading.excepthook is hook


def test_a_folder_whose_name_is_no_utf8_is_one_clear_error(tmp_path: Path) -> None:
    folder = RunFolder(root=tmp_path / os.fsdecode(b"caf\xe9"))
    folder.root.mkdir()
    with pytest.raises(ConfigError, match=r"log\.tensorboard=false"):
        Journal(folder, Silent(), step=0, tensorboard=True)


def test_lines_that_are_no_records_are_dropped(tmp_path: Path) -> None:
    whole = ['{"kind": "train", "step": 1}\n', '{"kind": "val", "step": 2, "epoch": 1}\n']
    odd = ["[" * 100_000, "7", '{"step": "x"}', '{"step": null}', '["step"]', '{"a": ', "\udcff"]
    path = tmp_path / "metrics.jsonl"
    text = whole[0] + "\n".join(odd) + "\n" + whole[1] + '{"step": 2}'
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    assert lines_up_to(path, 2, epochs_done=0, validated=[1]) == whole
    assert lines_up_to(path, 1, epochs_done=0, validated=[1]) == whole[:1]


def test_lines_stay_though_other_processes_number_the_steps_anew(tmp_path: Path) -> None:
    """Eight steps of one process are four of two."""
    lines = [f'{{"kind": "train", "step": {s}, "epochs_done": {s / 6}}}\n' for s in range(1, 10)]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(lines))
    assert lines_up_to(path, 4, epochs_done=8 / 6, validated=[]) == lines[:8]
