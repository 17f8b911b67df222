"""Exported networks answer as the checkpoint does, without torch; what cannot be is said."""

from __future__ import annotations

import errno
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from bag_samples import decoded, drive, field, read_mcap, write_mcap
from cache_samples import sample_info
from stub_network import random_checkpoint
from typer.testing import CliRunner

from pass2d.cli import app
from pass2d.common.errors import CheckpointError, ConfigError, DataError, ShapeError
from pass2d.models.inputs import PointBatch
from pass2d.models.vavit.pillars import INPUTS, PillarPreprocessing, pillar_scan
from pass2d.models.vavit.vavit import VaViT
from pass2d.train.checkpoints.card import Card
from pass2d.train.checkpoints.checkpoint import build_from_card, network_tensors, save_checkpoint
from pass2d.train.exporting.export import export_onnx
from pass2d.train.inference.exported import ExportedNetwork
from pass2d.train.inference.segmenter import Segmenter
from pass2d.train.prediction.bag import predict_bag
from pass2d.train.prediction.predict import predict

CPU = torch.device("cpu")
TINY = {"point_width": 6, "point_layers": 2, "width": 16, "depth": 2, "heads": 2, "head_width": 5}


def trained_like(settings: dict[str, object]) -> tuple[VaViT, Card]:
    """Untrained, but with all parts at work: statistics, scales of layers."""
    torch.manual_seed(3)
    card = Card(architecture="vavit", settings=settings, info=sample_info())
    network = build_from_card(card, CPU)
    assert isinstance(network, VaViT)
    for name, tensor in network.state_dict().items():
        if "gamma" in name:
            tensor.normal_(0.5, 0.1)
        elif "classifier" in name:
            tensor.normal_(0, 3)
        elif "running_var" in name:
            tensor.uniform_(0.5, 2)
        elif "running_mean" in name:
            tensor.normal_(0, 0.2)
    network.eval()
    points = torch.from_numpy(scan_of(500))
    batch = PointBatch(points=points, offsets=torch.tensor([0, 500]))
    with torch.no_grad():  # no class is ahead of the others everywhere
        network.head.classifier.bias -= network(network.prepare(batch)).row_logits[:, 1:].mean(0)
    return network, card


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "tiny.safetensors"
    network, card = trained_like(TINY)
    save_checkpoint(path, network_tensors(network.state_dict()), card)
    return path


@pytest.fixture(scope="module")
def exported(checkpoint: Path) -> Path:
    out = checkpoint.with_name("tiny.onnx")
    result = CliRunner().invoke(app, ["export", str(checkpoint), "--onnx", str(out), "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["nbytes"] == out.stat().st_size
    assert report["largest_difference"] < 1e-4
    return out


@pytest.fixture(scope="module")
def probabilities(checkpoint: Path) -> Path:
    out = checkpoint.with_name("tiny_probabilities.onnx")
    export_onnx(checkpoint, out, output="probabilities")
    return out


def scan_of(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    points = rng.normal(0, (9, 9, 1, 0.3), (n, 4)).astype(np.float32)
    points[:, 3] = np.abs(points[:, 3])
    return points


@pytest.mark.parametrize("n", [1, 2, 3, 17, 5000])
def test_logits_are_those_of_torch(checkpoint: Path, exported: Path, n: int) -> None:
    points = scan_of(n, seed=n)
    network = Segmenter.load(checkpoint, device="cpu").network
    with torch.inference_mode():
        batch = PointBatch(points=torch.from_numpy(points), offsets=torch.tensor([0, n]))
        expected = network(network.prepare(batch)).logits.numpy()
    found = ExportedNetwork.load(exported).logits(points)
    assert np.abs(expected[:, 1:]).max() > 0.1
    assert np.abs(found - expected).max() < 1e-4


@pytest.mark.parametrize("n", [1, 40, 3000])
def test_inputs_in_numpy_are_those_of_the_network(n: int) -> None:
    points = scan_of(n, seed=n)
    network, _ = trained_like(TINY)
    batch = PointBatch(points=torch.from_numpy(points), offsets=torch.tensor([0, n]))
    expected = network.prepare(batch)
    found = pillar_scan(points, PillarPreprocessing(cell_m=0.1, pillar_m=0.5, neighbours=16))
    for name in (*INPUTS, "row_of_point"):
        want = getattr(expected, name).numpy()
        assert getattr(found, name).dtype == want.dtype
        np.testing.assert_allclose(getattr(found, name), want, rtol=1e-6, atol=0)


def test_a_plain_loop_finds_the_same_pillars() -> None:
    how = PillarPreprocessing(cell_m=0.5, pillar_m=2.0, neighbours=3)
    points = scan_of(200, seed=8)
    found = pillar_scan(points, how)
    lowest = points[:, :3].min(axis=0)
    first: dict[tuple[int, ...], int] = {}
    for row, xyz in enumerate(points[:, :3]):
        first.setdefault(tuple(((xyz - lowest) / np.float32(0.5)).astype(int).tolist()), row)
    kept = points[[first[cell] for cell in sorted(first)]]
    assert np.array_equal(found.features[:, :4], kept[:, [3, 0, 1, 2]])
    assert np.allclose(found.features[:, 4], np.linalg.norm(kept[:, :3], axis=1))
    apart = np.linalg.norm(kept[:, None, :3] - kept[None, :, :3], axis=2)
    assert np.array_equal(found.neighbours, np.argsort(apart, axis=1)[:, 1:4])
    centres = np.floor(kept[:, :2] / 2) * 2 + 1
    assert np.array_equal(found.pillar_xy[found.pillar_of_point], centres)
    assert len(found.pillar_xy) == len(np.unique(centres, axis=0))
    far = np.linalg.norm(points[:, None, :3] - kept[None, :, :3], axis=2)
    assert np.array_equal(found.row_of_point, far.argmin(axis=1))


def test_coordinates_that_no_cell_counts_are_refused() -> None:
    how = PillarPreprocessing(cell_m=0.1, pillar_m=0.5, neighbours=3)
    with pytest.raises(ShapeError, match="finite metres"):
        pillar_scan(np.array([[0, 0, 0, 0], [np.nan, 0, 0, 0]], np.float32), how)


@pytest.mark.parametrize("votes", ["1", "3", "lattice"])
def test_labels_are_those_of_the_checkpoint(
    checkpoint: Path, exported: Path, probabilities: Path, votes: str
) -> None:
    points = scan_of(900)
    points[5, 0], points[6, 3] = np.nan, np.inf
    scans = [points, points[:0], points[:1]]
    expected = Segmenter.load(checkpoint, device="cpu", votes=votes)(scans)
    assert len(np.unique(expected[0].labels)) > 2
    for path in (exported, probabilities):
        for found, want in zip(Segmenter.load(path, votes=votes)(scans), expected, strict=True):
            assert np.array_equal(found.labels, want.labels)
            assert found.labels.dtype == want.labels.dtype
            assert found.scores.dtype == want.scores.dtype
            assert np.abs(found.scores - want.scores).max(initial=0) < 1e-5


def test_a_scan_that_goes_in_shares_is_labelled_alike(
    checkpoint: Path, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pass2d.train.inference.segmenter.LARGEST_PASS", 300)
    points = scan_of(1000)
    expected = Segmenter.load(checkpoint, device="cpu")(points)
    found = Segmenter.load(exported)(points)
    assert np.array_equal(found.labels, expected.labels)


def test_the_metadata_tell_any_program_what_it_needs(exported: Path, probabilities: Path) -> None:
    table = sample_info().labels
    model = onnx.load(exported)
    onnx.checker.check_model(model)
    found = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(found["class_names"]) == list(table.names)
    assert json.loads(found["raw_ids"]) == list(table.training_to_raw)
    assert json.loads(found["colors_rgb"]) == [list(color) for color in table.colors_rgb]
    assert json.loads(found["preprocessing"]) == {
        "kind": "pillars",
        "cell_m": 0.1,
        "pillar_m": 0.5,
        "neighbours": 16,
        "features": ["signal", "x", "y", "z", "range"],
    }
    assert found["output"] == "logits"
    axes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert axes == {
        "features": ["points", 5],
        "neighbours": ["points", 16],
        "pillar_of_point": ["points"],
        "pillar_xy": ["pillars", 2],
        "logits": ["points", table.n_classes],
    }
    assert str(Path.cwd()).encode() not in exported.read_bytes()  # no paths of this machine
    assert [node.name for node in onnx.load(probabilities).graph.output] == ["probabilities"]


WITHOUT_TORCH = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "spconv", "torchvision"):
            raise ImportError(name)
sys.meta_path.insert(0, NoTorch())
from pass2d import Segmenter
from pass2d.cli import app
import numpy as np
assert len(Segmenter.load(sys.argv[3])(np.ones((4, 4), np.float32)).labels) == 4
app(["predict", *sys.argv[1:3], "--checkpoint", sys.argv[3], "--format", "label,bin,ply",
     "--confidence", "--png", "--votes", "2"])
"""


def test_predict_runs_where_torch_cannot_be_imported(
    checkpoint: Path, exported: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    for number in range(2):
        scan_of(400, seed=number).tofile(tmp_path / "in" / f"{number}.bin")
    command = [sys.executable, "-c", WITHOUT_TORCH]
    options = [f"{tmp_path}/in", f"--out={tmp_path}/out", str(exported)]
    ran = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    from pass2d.train.inference.votes import parse_votes

    predict(tmp_path / "in", checkpoint, tmp_path / "torch", votes=parse_votes("2"), device=CPU)
    for number in range(2):
        written = (tmp_path / "out" / f"{number}.label").read_bytes()
        assert written == (tmp_path / "torch" / f"{number}.label").read_bytes()


def test_a_network_with_sparse_convolutions_says_what_to_use_instead(tmp_path: Path) -> None:
    path = tmp_path / "sparse.safetensors"
    random_checkpoint(path, info=sample_info())
    with pytest.raises(ConfigError, match=r"sparse convolutions have no ONNX operator.*vavit"):
        export_onnx(path, tmp_path / "sparse.onnx")
    result = CliRunner().invoke(app, ["export", str(path), "--onnx", str(tmp_path / "a.onnx")])
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "--backend native" in result.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["sparse.safetensors"]


@pytest.mark.parametrize("name", ["tiny.safetensors", "tiny"])
def test_names_that_predict_would_not_know_are_refused(checkpoint: Path, name: str) -> None:
    before = checkpoint.read_bytes()
    with pytest.raises(ConfigError, match=r"NAME\.onnx"):
        export_onnx(checkpoint, checkpoint.with_name(name))
    assert checkpoint.read_bytes() == before
    with pytest.raises(ConfigError, match="logits, probabilities"):
        export_onnx(checkpoint, checkpoint.with_name("a.onnx"), output="scores")  # type: ignore[arg-type]


def test_damage_at_any_place_is_found(exported: Path, tmp_path: Path) -> None:
    whole, path = exported.read_bytes(), tmp_path / "damaged.onnx"
    rng = np.random.default_rng(0)
    for size in rng.integers(0, len(whole), 12).tolist():
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"damaged\.onnx: "):
            Segmenter.load(path)
    for place in rng.integers(0, len(whole), 25).tolist():
        changed = bytearray(whole)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match=r"damaged\.onnx: "):
            Segmenter.load(path)


def test_foreign_files_are_refused_in_one_line(exported: Path, tmp_path: Path) -> None:
    def refusal(model: onnx.ModelProto | bytes, said: str) -> None:
        path = tmp_path / "foreign.onnx"
        path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        with pytest.raises(CheckpointError, match=said) as caught:
            Segmenter.load(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)

    refusal(b"", "truncated or damaged, not an ONNX file")
    refusal(b"<html>not found</html>", "truncated or damaged, not an ONNX file")
    bare = onnx.load(exported)
    del bare.metadata_props[:]
    refusal(bare, "without pass2d's card in its metadata")
    newer = onnx.load(exported)
    newer.opset_import[0].version = 99
    refusal(newer, "newer onnxruntime")
    other = onnx.load(exported)  # as another tool that writes the file anew
    other.graph.initializer[0].name += "x"
    for node in other.graph.node:
        for place, name in enumerate(node.input):
            if name + "x" == other.graph.initializer[0].name:
                node.input[place] = name + "x"
    refusal(other, "changed since it was exported")
    with pytest.raises(CheckpointError, match="no such checkpoint file"):
        Segmenter.load(tmp_path / "absent.onnx")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(CheckpointError, match="a folder"):
        Segmenter.load(tmp_path / "folder.onnx")


def test_options_that_an_exported_network_has_not_are_refused(exported: Path) -> None:
    for options in ({"device": "cuda"}, {"backend": "native"}, {"batch_size": 4}):
        with pytest.raises(ConfigError):
            Segmenter.load(exported, **options)


def test_commands_that_need_torch_say_so_of_an_exported_network(
    exported: Path, tmp_path: Path
) -> None:
    from pass2d.train.checkpoints.checkpoint import read_card

    with pytest.raises(CheckpointError, match=r"exported network.*predict"):
        read_card(exported)


def test_a_full_disk_leaves_what_was_there(
    checkpoint: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = onnx.load(exported)
    del graph.metadata_props[:]
    monkeypatch.setattr("pass2d.train.exporting.export._model", lambda *_: graph)
    out = tmp_path / "net.onnx"
    out.write_bytes(b"older")

    def full(*_args: object, **_options: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DataError, match="No space left"):
        export_onnx(checkpoint, out)
    monkeypatch.undo()
    assert out.read_bytes() == b"older"
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]


def test_a_missing_package_is_named(
    checkpoint: Path, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for act in (
        lambda: Segmenter.load(exported),
        lambda: export_onnx(checkpoint, checkpoint.with_name("never.onnx")),
    ):
        with pytest.raises(ConfigError, match=r"onnxruntime.*pip install.*pass2d\[onnx\]"):
            act()
    assert not checkpoint.with_name("never.onnx").exists()


def test_the_page_for_other_languages_does_the_same_in_numpy(
    checkpoint: Path, exported: Path, tmp_path: Path
) -> None:
    """The code of docs/onnx.md, which imports nothing but NumPy, beside `pass2d predict`."""
    page = (Path(__file__).resolve().parents[1] / "docs" / "onnx.md").read_text("utf-8")
    code = "".join(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL))
    assert set(re.findall(r"^\s*(?:import|from) (\S+)", code, flags=re.MULTILINE)) == {
        "json",
        "numpy",
    }
    page_names: dict[str, Any] = {}
    exec(compile(code, "docs/onnx.md", "exec"), page_names)
    (tmp_path / "in").mkdir()
    sizes = {"many": 1500, "few": 9, "one": 1}
    for name, n in sizes.items():
        scan_of(n, seed=n).tofile(tmp_path / "in" / f"{name}.bin")
    predict(tmp_path / "in", checkpoint, tmp_path / "out", device=CPU)
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    found: set[int] = set()
    for name, n in sizes.items():
        written = np.fromfile(tmp_path / "out" / f"{name}.label", "<u4")
        labels = page_names["label"](scan_of(n, seed=n), session)
        assert np.array_equal(labels, written)
        found.update(labels.tolist())
    assert len(found) > 2


def test_exported_network_labels_a_recording(
    checkpoint: Path, exported: Path, tmp_path: Path
) -> None:
    bag = write_mcap(tmp_path / "drive.mcap", drive(n_scans=2))
    found = []
    for network in (checkpoint, exported):
        out = tmp_path / f"{network.suffix[1:]}.mcap"
        predict_bag(bag, network, out, device="cpu")
        clouds = [decoded(row[-1]) for row in read_mcap(out) if row[0] == "/points"]
        found.append([field(cloud, "class_id").tolist() for cloud in clouds])
    assert len(found[0]) == 2
    assert found[0] == found[1]
