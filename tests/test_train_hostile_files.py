"""Checkpoints, cards and recipes of any content: one error, never a traceback or a hang."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_train_checkpoint import CARD, some_tensors
from test_train_export import TINY, trained_like

from pass2d.common.errors import CheckpointError, ConfigError, Pass2DError
from pass2d.common.plain import to_plain
from pass2d.reports.card import card_json, card_tables
from pass2d.train.checkpoints.checkpoint import (
    load_checkpoint,
    network_from_checkpoint,
    network_tensors,
    read_card,
    save_checkpoint,
)
from pass2d.train.recipes.files import RECIPES
from pass2d.train.recipes.recipe import load_recipe, to_toml

DEEP = "[" * 100_000
STRANGE: list[Any] = [
    *(None, True, False, 0, -1, 2**63, 10**300, 1.5, float("nan"), float("inf"), -0.0),
    *("", "x", "none", "\0", "\ud7ff", "../../x", "x" * 10_000, "1e999"),
    *([], [[]], {}, {"x": 1}, [None], ["a"] * 300, {"0": {}}, [[[[[[[[[[1]]]]]]]]]]),
]


def read_all(path: Path) -> None:
    load_checkpoint(path)
    read_card(path)
    card_json(path)
    card_tables(path)


def refused(path: Path) -> str:
    """The one error of every way to read a checkpoint."""
    told = []
    for read in (load_checkpoint, read_card, card_json, card_tables):
        with pytest.raises(CheckpointError, match=path.name) as caught:
            read(path)
        told.append(str(caught.value))
    assert all(len(text) < 900 and "\n" not in text for text in told)
    return told[0]


def write_header(
    path: Path, header: bytes, data: bytes = b"", *, length: int | None = None
) -> None:
    size = len(header) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + header + data)


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, some_tensors(), CARD)
    return path


def with_meta(path: Path, text: object) -> None:
    """A file without tensors, with this text as pass2d's entry in its header."""
    write_header(path, json.dumps({"__metadata__": {"pass2d": text}}).encode())


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        DEEP.encode(),
        b'{"a":' * 50_000,
        b"\xff" * 50,
        b'{"__metadata__":[]}',
        b'{"__metadata__":{"pass2d":5}}',
        b'{"__metadata__":{"pass2d":"{}","pass2d":"{}"}}',
        b'{"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"F32","shape":[1e999],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}',
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,99999]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"F32","shape":' + b"9" * 5000 + b',"data_offsets":[0,8]}}',
    ],
)
def test_headers_of_any_form_are_one_error(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    write_header(path, header, bytes(8))
    refused(path)


@pytest.mark.parametrize("length", [0, 1, 10**6, 2**40, 2**63, 2**64 - 1])
def test_headers_of_any_length_are_one_error(length: int, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    write_header(path, b"{}", length=length)
    refused(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "5",
        "[]",
        "{}",
        DEEP,
        '{"version":1}',
        '{"version":1,"card":5,"xxh3":""}',
        '{"version":1,"card":"{}","xxh3":[]}',
        '{"version":1e999,"card":"{}","xxh3":""}',
        '{"version":true,"card":"{}","xxh3":""}',
        '{"version":' + "9" * 5000 + ',"card":"","xxh3":""}',
        '{"version":' + "9" * 4000 + ',"card":"","xxh3":""}',
        '{"version":1,"version":1,"card":"{}","xxh3":""}',
        json.dumps({"version": 1, "card": DEEP, "xxh3": ""}),
        json.dumps({"version": 1, "card": "[" * 900 + "]" * 900, "xxh3": ""}),
        json.dumps({"version": 1, "card": '{"run":' + '{"a":' * 400 + "1" + "}" * 401, "xxh3": ""}),
        json.dumps({"version": 1, "card": '{"architecture":"a","architecture":"b"}', "xxh3": ""}),
    ],
)
def test_entries_of_any_form_are_one_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    with_meta(path, text)
    refused(path)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in plain data: the whole, then each entry, however deep."""
    found = [path]
    entries: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        entries = list(value.items())
    elif isinstance(value, list):
        entries = list(enumerate(value))[:2]
    for key, item in entries:
        found += places(item, (*path, key))
    return found


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = json.loads(json.dumps(value))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return copy


def test_any_value_in_any_field_of_a_card_is_read_or_one_error(
    tmp_path: Path, fault_rounds: int
) -> None:
    rng = random.Random(fault_rounds)
    path = tmp_path / "c.safetensors"
    card = to_plain(CARD)
    told: list[str] = []
    for place in places(card):
        for new in rng.sample(STRANGE, min(len(STRANGE), 3 * fault_rounds)):
            text = json.dumps(changed(card, place, new))
            with_meta(path, json.dumps({"version": 1, "card": text, "xxh3": "0" * 32}))
            for read in (read_card, card_json, card_tables, load_checkpoint):
                try:
                    read(path)
                except CheckpointError as error:
                    told.append(str(error))
    assert len(told) > 200
    assert not [text for text in told if len(text) > 700 or "\n" in text]


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_cards_hold_no_numbers_that_json_lacks(number: str, tmp_path: Path) -> None:
    """`inspect` with JSON ended in a traceback."""
    text = json.dumps(changed(to_plain(CARD), ("metrics", "val/miou"), 0.25)).replace(
        "0.25", number
    )
    path = tmp_path / "c.safetensors"
    with_meta(path, json.dumps({"version": 1, "card": text, "xxh3": "0" * 32}))
    with pytest.raises(CheckpointError, match=r"c\.safetensors: .* is no number of JSON"):
        read_card(path)


def test_a_card_of_no_network_names_its_file(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, some_tensors(), replace(CARD, architecture="unheard-of"))
    with pytest.raises(CheckpointError, match=r"c\.safetensors: its card .* unknown network 'unhe"):
        network_from_checkpoint(path, torch.device("cpu"))


def test_any_flipped_bit_of_a_checkpoint_is_one_error(
    sound: Path, tmp_path: Path, fault_rounds: int
) -> None:
    rng = random.Random(fault_rounds)
    data = sound.read_bytes()
    header = int.from_bytes(data[:8], "little")
    path = tmp_path / "d.safetensors"
    for _ in range(150 * fault_rounds):
        place = rng.randrange(8 + header) if rng.random() < 0.8 else rng.randrange(len(data))
        path.write_bytes(
            data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
        )
        try:
            back = load_checkpoint(path)
        except CheckpointError:
            continue
        assert back.card == CARD  # blanks that fill the header
        assert all(torch.equal(back.tensors[n], t) for n, t in some_tensors().items())


def test_tensors_of_another_kind_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, some_tensors(), CARD)
    with pytest.raises((CheckpointError, ConfigError), match=r"c\.safetensors|scales|hidden"):
        network_from_checkpoint(path, torch.device("cpu"))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_of_a_training_that_diverged_are_refused(tmp_path: Path, value: float) -> None:
    network, card = trained_like(TINY)
    tensors = network_tensors(network.state_dict())
    path = tmp_path / "c.safetensors"
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    tensors[name] = tensors[name].clone()
    tensors[name].view(-1)[0] = value
    save_checkpoint(path, tensors, card)
    with pytest.raises(CheckpointError, match=r"1 of .* tensors contain NaN or infinity") as error:
        network_from_checkpoint(path, torch.device("cpu"))
    assert name.removeprefix("network.") in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "epochs = " + "9" * 5000,
        "epochs = 0x" + "f" * 5000,
        "epochs = " + DEEP,
        "a = {" * 20_000,
        ".".join("a" * 5000) + " = 1",
        "network.settings." + ".".join("a" * 5000) + " = 1",
        "network.settings.hidden = " + "[" * 300 + "]" * 300,
        "network.settings.hidden = 1979-05-27",
        "epochs = 1979-05-27T07:32:00Z",
        "epochs = inf",
        "epochs = nan",
        "epochs = 1\nepochs = 2",
        "extends = 5",
        "extends = ['x']",
        'extends = "\\u0000.toml"',
        'extends = "' + "x/" * 5000 + '.toml"',
        "optimizer = 5",
        "[[optimizer]]\n[[optimizer]]",
        "'" + "k" * 100_000 + "' = 1",
        "epochs = '" + "x" * 100_000 + "'",
        "\0",
        "\x07 = 1",
    ],
)
def test_recipes_of_any_form_are_one_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_recipe(str(path))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("data", [b"\xff\xfe\0", bytes(range(256)), b"\xef\xbb\xbf\xef\xbb\xbf"])
def test_recipes_that_are_no_text_are_one_error(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"r\.toml"):
        load_recipe(str(path))


def toml(value: Any) -> str:
    """A strange value as an override may spell it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value) if isinstance(value, str) else str(value).replace("None", "none")


def test_any_value_of_any_setting_is_taken_or_one_error(fault_rounds: int) -> None:
    rng = random.Random(fault_rounds)
    table = to_plain(load_recipe("2dpass-small"))
    told: list[str] = []
    for place in places(table):
        key = ".".join(map(str, place))
        for new in rng.sample(STRANGE, min(len(STRANGE), 2 * fault_rounds)):
            try:
                recipe = load_recipe("2dpass-small", [f"{key}={toml(new)}"])
                assert to_toml(recipe)
            except ConfigError as error:
                told.append(str(error))
    assert len(told) > 50
    assert not [text for text in told if len(text) > 1200]


def test_any_text_for_set_is_taken_or_one_error(fault_rounds: int) -> None:
    rng = random.Random(fault_rounds)
    words = ["epochs", "=", ".", "optimizer", "[", "]", "{", '"', "'", "\\", "\0", "9" * 5000]
    words += [" ", "\n", "é", "\ud800", "network.settings", "0x" + "f" * 4000, "true", DEEP[:3000]]
    for _ in range(100 * fault_rounds):
        text = "".join(rng.choice(words) for _ in range(rng.randrange(6)))
        try:
            load_recipe("demo", [text])
        except Pass2DError as error:
            told = str(error)
            assert len(told) < 1500
    assert (RECIPES / "demo.toml").is_file()
