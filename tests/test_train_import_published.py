"""Published checkpoints become ours: recognised, complete, equal in what they compute."""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cache.errors import CheckpointError
from cache.schema import DatasetInfo
from pass2d_models.inputs import Grid, PointBatch
from pass2d_models.network import Network
from pass2d_models.published_names import our_name, published_name, published_tensor
from pass2d_models.registry import NAMED_CONFIGS, build_network
from pass2d_models.torchsparse_names import to_torchsparse
from pipeline.datasets.table import load_table
from train.checkpoint import network_from_checkpoint
from train.import_published import import_checkpoint
from train.published_layout import recognise

TABLES = Path(__file__).resolve().parents[1] / "pipeline" / "datasets"
DATASETS: tuple[DatasetInfo, ...] = tuple(
    load_table(TABLES / f"{name}.toml").info for name in ("semkitti", "nuscenes")
)
CPU = torch.device("cpu")
GRID = Grid(low=(-50, -50, -4), high=(50, 50, 2), shape=(1000, 1000, 60))
NUSCENES_GRID = Grid(low=(-50, -50, -4), high=(50, 50, 3), shape=(1000, 1000, 70))


class EasyDict(dict[str, Any]):
    """As the published code's settings: pickled as an object of a class of its own."""


class ModelCheckpoint:
    """As the training framework's callback, whose class is a key."""


def small(kind: str, *, n_classes: int, **settings: object) -> Network:
    """A narrow network with values that no initialisation gives."""
    torch.manual_seed(n_classes)
    grid = NUSCENES_GRID if n_classes == 17 else GRID
    network = build_network(kind, settings, grid=grid, n_classes=n_classes).eval()
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            noise = 0.1 * torch.randn_like(tensor)
            tensor.add_(noise.abs() if name.endswith("running_var") else noise)
    return network


def published_state(network: Network) -> OrderedDict[str, Tensor]:
    """The network's tensors as the published code names and lays them out, class weights too."""
    state = network.state_dict()
    weights = torch.ones(network.n_classes)
    weights[0] = math.inf
    if network.kind != "2dpass":
        return OrderedDict({**to_torchsparse(state), "criterion.ce_loss.weight": weights})
    theirs = {str(published_name(n)): published_tensor(n, t) for n, t in state.items()}
    theirs["model_3d.criterion.ce_loss.weight"] = weights
    if network.needs_images:
        theirs["fusion.ce_loss.weight"] = weights
    return OrderedDict(theirs)


def save(path: Path, state: dict[str, Tensor], *, is_zip: bool = True, **beside: Any) -> Path:
    value = {
        "epoch": 12,
        "state_dict": state,
        "callbacks": {ModelCheckpoint: {"best": torch.tensor(0.5)}},
        "hyper_parameters": {"config": EasyDict(seed=0)},
        **beside,
    }
    torch.save(value, path, _use_new_zipfile_serialization=is_zip)
    return path


def batch() -> PointBatch:
    draw = np.random.default_rng(0)
    points = draw.normal(0, (2, 2, 0.4, 0.2), (300, 4)).astype(np.float32)
    return PointBatch(points=torch.from_numpy(points), offsets=torch.tensor([0, 200, 300]))


def logits(network: Network) -> Tensor:
    with torch.no_grad():
        return network.eval()(network.prepare(batch())).logits


BASELINE = {"hidden": 8, "image_branch": False}
SIX_BLOCKS = {"hidden": 4, "block_scales": (2, 4, 8, 16, 16, 16)}
OTHER_WIDTHS = {"base_widths": (8, 4, 6, 6, 10, 12, 6, 4, 8)}


@pytest.mark.parametrize(
    ("kind", "n_classes", "settings", "is_zip"),
    [
        ("2dpass", 20, BASELINE, True),
        ("2dpass", 20, BASELINE, False),
        ("2dpass", 17, SIX_BLOCKS, True),
        ("minkowskinet", 20, {"width_factor": 0.25}, False),
        ("minkowskinet", 17, OTHER_WIDTHS, True),
        ("spvcnn", 20, {"width_factor": 0.5}, True),
        ("spvcnn", 17, {"width_factor": 0.25}, False),
    ],
)
def test_an_imported_network_computes_the_same(
    tmp_path: Path, kind: str, n_classes: int, settings: dict[str, object], is_zip: bool
) -> None:
    network = small(kind, n_classes=n_classes, **settings)
    state = published_state(network)
    source = save(tmp_path / "published.ckpt", state, is_zip=is_zip)
    report = import_checkpoint(source, tmp_path / "ours.safetensors", datasets=DATASETS)
    assert report.architecture == kind
    assert report.dataset == {20: "semkitti", 17: "nuscenes"}[n_classes]
    assert report.n_classes == n_classes
    assert report.n_tensors == len(network.state_dict())
    assert report.n_tensors + len(report.set_aside) == len(state)
    assert report.has_image_branch == network.needs_images
    imported, card = network_from_checkpoint(report.out, CPU)
    assert torch.equal(logits(imported), logits(network))
    assert card.info == {info.name: info for info in DATASETS}[report.dataset]
    assert card.preprocessing.in_volume_only == (kind == "2dpass")
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert card.provenance["source_sha256"] == digest == report.source_sha256
    assert card.provenance["imported_from"] == "published.ckpt"
    assert card.provenance["source_epoch"] == "12"


def test_every_tensor_of_a_training_checkpoint_is_kept_for_fine_tuning(tmp_path: Path) -> None:
    from train.checkpoint import load_checkpoint

    network = small("2dpass", n_classes=20, hidden=8)
    source = save(tmp_path / "published.ckpt", published_state(network))
    report = import_checkpoint(source, tmp_path / "ours.safetensors", datasets=DATASETS)
    kept = load_checkpoint(report.out).part("network.")
    assert kept.keys() == network.state_dict().keys()
    for name, tensor in network.state_dict().items():
        assert torch.equal(kept[name], tensor), name


@pytest.mark.parametrize("prefix", ["module.", "model."])
def test_a_wrappers_prefix_is_taken_off(tmp_path: Path, prefix: str) -> None:
    network = small("minkowskinet", n_classes=20, width_factor=0.25)
    state = {prefix + name: tensor for name, tensor in published_state(network).items()}
    torch.save({"model": state}, tmp_path / "published.pt")
    out = tmp_path / "ours.safetensors"
    import_checkpoint(tmp_path / "published.pt", out, datasets=DATASETS)
    assert torch.equal(logits(network_from_checkpoint(out, CPU)[0]), logits(network))


def test_scales_that_the_files_settings_list_are_taken(tmp_path: Path) -> None:
    network = small("2dpass", n_classes=20, hidden=4, block_scales=(2, 4), image_branch=False)
    config = EasyDict(model_params=EasyDict(scale_list=[4, 8]))
    source = save(
        tmp_path / "a.ckpt", published_state(network), hyper_parameters={"config": config}
    )
    report = import_checkpoint(source, tmp_path / "a.safetensors", datasets=DATASETS)
    assert network_from_checkpoint(report.out, CPU)[1].settings["block_scales"] == [4, 8]


def test_every_kind_of_misfit_is_listed_in_one_error(tmp_path: Path) -> None:
    state = published_state(small("2dpass", n_classes=20, hidden=8, image_branch=False))
    del state["model_3d.spv_enc.1.v_enc.0.layers.1.running_mean"]
    state["model_3d.surplus.weight"] = torch.zeros(3)
    state["model_3d.classifier.0.bias"] = torch.zeros(5)
    state["model_3d.criterion.ce_loss.weight"] = torch.zeros(19)
    out = tmp_path / "ours.safetensors"
    with pytest.raises(CheckpointError) as caught:
        import_checkpoint(save(tmp_path / "a.ckpt", state), out, datasets=DATASETS)
    message = str(caught.value)
    assert "missing: model_3d.spv_enc.1.v_enc.0.layers.1.running_mean;" in message
    assert "unexpected: model_3d.surplus.weight;" in message
    assert "model_3d.classifier.0.bias (5,) instead of (128,)" in message
    assert "model_3d.criterion.ce_loss.weight (19,) instead of (20,)" in message
    assert not out.exists()


def refused(tmp_path: Path, state: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        import_checkpoint(
            save(tmp_path / "a.ckpt", state), tmp_path / "o.safetensors", datasets=DATASETS
        )
    assert not (tmp_path / "o.safetensors").exists()
    return str(caught.value)


def test_files_that_are_no_published_network_are_refused(tmp_path: Path) -> None:
    assert "none of the networks" in refused(tmp_path, {"layer.weight": torch.zeros(2)})
    assert "no tensors under 'state_dict'" in refused(tmp_path, {})
    state = published_state(small("minkowskinet", n_classes=20, width_factor=0.25))
    assert "no tensors in its state dict: note" in refused(tmp_path, {**state, "note": "text"})
    short = {name: tensor for name, tensor in state.items() if name != "up3.0.net.0.kernel"}
    assert "up3.0.net.0.kernel" in refused(tmp_path, short)
    broken = {**state, "up3.0.net.1.weight": state["up3.0.net.1.weight"] * math.nan}
    assert "not finite in up3.0.net.1.weight" in refused(tmp_path, broken)
    other = published_state(small("minkowskinet", n_classes=26, width_factor=0.25))
    assert "26 classes" in refused(tmp_path, other)


def test_a_hostile_checkpoint_writes_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    state = published_state(small("minkowskinet", n_classes=20, width_factor=0.25))
    source = save(tmp_path / "a.ckpt", state, extra=Evil())
    with pytest.raises(CheckpointError, match="refused"):
        import_checkpoint(source, tmp_path / "o.safetensors", datasets=DATASETS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ckpt"]


def shapes_of(entries: list[Any]) -> dict[str, tuple[int, ...]]:
    pairs = ((e["name"], e["shape"]) if isinstance(e, dict) else e[:2] for e in entries)
    return {name: tuple(shape) for name, shape in pairs}


def test_the_published_lists_of_tensors_are_the_networks_own(shared: Path) -> None:
    lists = [
        json.loads((path / "state_dict_keys.json").read_text())["entries"]
        for folder in ("golden", "golden_generated")
        for path in sorted((shared / folder).glob("case_*"))
    ]
    recordings = sorted((shared / "golden_torchsparse").glob("kitti_*_b1.json"))
    lists += [json.loads(path.read_text())["state_dict"] for path in recordings]
    assert len(lists) >= 5
    for entries in lists:
        shapes = shapes_of(entries)
        layout = recognise(shapes)
        assert layout is not None
        network = build_network(
            layout.architecture, layout.settings, grid=GRID, n_classes=layout.n_classes
        )
        for name in layout.set_aside:
            # Networks that train without class weights have none.
            assert shapes.pop(name, None) in (None, (layout.n_classes,))
        assert layout.expected(network) == shapes


@pytest.mark.parametrize("name", list(NAMED_CONFIGS))
def test_named_networks_are_recognised_by_their_published_shapes(name: str) -> None:
    named = NAMED_CONFIGS[name]
    n_classes = 17 if "nuscenes" in name else 20
    with torch.device("meta"):
        network = build_network(
            named.kind, named.settings, grid=GRID, n_classes=n_classes, device="meta"
        )
    layout = recognise({key: tuple(value.shape) for key, value in published_state(network).items()})
    assert layout is not None
    assert layout.architecture == named.kind
    assert layout.n_classes == n_classes
    rebuilt = network.config_type.from_settings(layout.settings)
    assert rebuilt == network.config


def test_the_recorded_checkpoint_gives_the_weights_of_its_rule(
    shared: Path, tmp_path: Path
) -> None:
    source = shared / "golden" / "small" / "original_style_baseline_hidden16.ckpt"
    report = import_checkpoint(source, tmp_path / "ours.safetensors", datasets=DATASETS)
    assert report.settings == {"block_scales": [2, 4, 8, 16], "hidden": 16, "image_branch": False}
    network, card = network_from_checkpoint(report.out, CPU)
    assert card.info.name == "semkitti"
    listed = json.loads(source.with_suffix(".json").read_text())["entries"]
    ours = network.state_dict()
    drawn = 0
    for entry in listed:
        name = our_name(entry["name"])
        if name is None or name.endswith("num_batches_tracked"):
            continue
        expected = rule(entry["name"], entry["shape"])
        np.testing.assert_array_equal(published_tensor(name, ours[name]).numpy(), expected)
        drawn += 1
    assert drawn == len([name for name in ours if not name.endswith("num_batches_tracked")])
    assert logits(network).isfinite().all()


def rule(name: str, shape: list[int]) -> np.ndarray:
    """README of the recordings: every tensor from its name."""
    z = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    tenth = np.float32(0.1)
    if len(shape) > 1:
        return z * np.float32(np.sqrt(2 / np.prod(shape[1:])))
    if name.endswith("weight"):
        return 1 + tenth * z
    return 1 + tenth * np.abs(z) if name.endswith("running_var") else tenth * z
