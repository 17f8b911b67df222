"""Checkpoints: what is written comes back, and any damage is found."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch

from pass2d.cache.clouds.statistics import ChannelStatistics
from pass2d.cache.schema import DatasetInfo, GridConfig, LabelTable
from pass2d.common.errors import CheckpointError
from pass2d.reports.card import card_tables
from pass2d.train.checkpoints.card import Card
from pass2d.train.checkpoints.checkpoint import load_checkpoint, read_card, save_checkpoint

INFO = DatasetInfo(
    name="semkitti",
    layout="semantickitti",
    labels=LabelTable(
        raw_to_training={0: 0, 10: 1, 252: 1},
        training_to_raw=(0, 10),
        names=("unlabeled", "car"),
        colors_rgb=((0, 0, 0), (245, 150, 100)),
    ),
    grid=GridConfig(low=(-50.0, -50.0, -4.0), high=(50.0, 50.0, 2.0), shape=(1000, 1000, 60)),
    n_cameras=1,
    has_class_weights=True,
    signal_name="remission",
    raw_columns=4,
)
CARD = Card(
    architecture="2dpass",
    settings={"hidden": 64, "scales": [2, 4, 8, 16]},
    info=INFO,
    metrics={"val/miou_official": 0.1},
    provenance={"file": "größe.ckpt"},
    input_statistics={"range": ChannelStatistics(mean=1.5, std=2.0, percentiles=(0.1, 0.2))},
    run={"epoch": 3, "lr": [0.1, 1e-300]},
)


def some_tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(5, 7, generator=generator)
    return {
        "network.a.weight": weight,
        "network.a.tied": weight,
        "network.column": weight[:, 2],
        "network.half": weight.to(torch.bfloat16),
        "network.count": torch.tensor(3),
        "network.empty": torch.zeros(0, 4),
        "rng.state": torch.arange(9, dtype=torch.uint8),
    }


def test_tensors_and_card_come_back_exactly(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, some_tensors(), CARD)
    back = load_checkpoint(path)
    assert back.card == CARD == read_card(path)
    assert back.card.info.labels.raw_to_training[252] == 1
    for name, tensor in some_tensors().items():
        assert back.tensors[name].dtype == tensor.dtype
        assert torch.equal(back.tensors[name], tensor), name
    assert set(back.part("rng.")) == {"state"}


def test_folder_whose_name_is_not_utf_8_is_as_good_as_any(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"latin \xe9")
    folder.mkdir()
    save_checkpoint(folder / "c.safetensors", some_tensors(), CARD)
    assert (
        load_checkpoint(folder / "c.safetensors").card
        == CARD
        == read_card(folder / "c.safetensors")
    )
    assert len(card_tables(folder / "c.safetensors")) == 2


def test_others_may_read_it_as_the_umask_says(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    save_checkpoint(tmp_path / "c.safetensors", some_tensors(), CARD)
    modes = [(tmp_path / name).stat().st_mode for name in ("plain", "c.safetensors")]
    assert modes[0] == modes[1]


def test_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_checkpoint(tmp_path / name, some_tensors(), CARD)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_every_single_flipped_bit_and_every_cut_is_found(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, some_tensors(), CARD)
    good = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    places = torch.randint(len(good), (150,), generator=generator).tolist()
    for place in [*places, 0, 7, 8, len(good) - 1]:
        damaged = bytearray(good)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(bytes(damaged))
        with pytest.raises(CheckpointError):
            load_checkpoint(path)
    for length in (0, 5, 100, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:length])
        with pytest.raises(CheckpointError, match=r"c\.safetensors"):
            load_checkpoint(path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, some_tensors(), CARD)
    before = path.read_bytes()

    def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left"):
        save_checkpoint(path, {"network.x": torch.ones(3)}, CARD)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


def test_an_unwritable_place_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="could not be written"):
        save_checkpoint(tmp_path / "absent" / "c.safetensors", {}, CARD)


def test_a_published_pickle_is_told_to_be_imported(tmp_path: Path) -> None:
    path = tmp_path / "best.ckpt"
    path.write_bytes(b"PK\x03\x04 something else entirely, longer than a header")
    with pytest.raises(CheckpointError, match=r"`import_checkpoint\("):
        load_checkpoint(path)


def test_a_newer_format_says_update(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, {"network.x": torch.ones(3)}, CARD)
    written = path.read_bytes()
    newer = re.sub(rb'(\\"version\\": ?)1\b', rb"\g<1>9", written)
    assert newer != written
    path.write_bytes(newer)
    with pytest.raises(CheckpointError, match="update pass2d"):
        load_checkpoint(path)


def test_a_folder_is_told_which_of_its_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a folder.*checkpoints/best\.safetensors"):
        load_checkpoint(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone\.safetensors: no such checkpoint"):
        load_checkpoint(tmp_path / "gone.safetensors")
