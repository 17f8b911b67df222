"""Published checkpoints become ours: recognised, complete, equal in what they compute."""

from __future__ import annotations

import hashlib
import json
import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cache_samples import write_sample_cache
from torch import Tensor
from train_samples import TINY, final_weights

from pass2d.cache.schema import DatasetInfo
from pass2d.common.errors import CheckpointError
from pass2d.common.plain import from_plain
from pass2d.models.inputs import Grid, PointBatch
from pass2d.models.network import Network
from pass2d.models.registry import NAMED_CONFIGS, build_network
from pass2d.models.sparse_unets import minkunet34_names as minkunet34
from pass2d.models.sparse_unets.kernel_layouts import KernelLayout, our_kernel
from pass2d.models.sparse_unets.torchsparse_names import to_torchsparse
from pass2d.models.twodpass.published_names import published_name, published_tensor
from pass2d.models.vavit import published_names as vavit
from pass2d.pipeline.datasets.table import load_table
from pass2d.train.checkpoints.card import CARD_VERSION, Card
from pass2d.train.checkpoints.checkpoint import network_from_checkpoint, read_card
from pass2d.train.checkpoints.published.importer import import_checkpoint
from pass2d.train.checkpoints.published.layout import recognise
from pass2d.train.evaluation.evaluate import evaluate
from pass2d.train.loop import run
from pass2d.train.prediction.predict import predict
from pass2d.train.recipes.recipe import load_recipe

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


def published_state(
    network: Network, kernels: KernelLayout = "torchsparse"
) -> OrderedDict[str, Tensor]:
    """The network's tensors as the published code names and lays them out, class weights too."""
    state = network.state_dict()
    weights = torch.ones(network.n_classes)
    weights[0] = math.inf
    if network.kind == "vavit":
        theirs = {vavit.published_name(name): tensor for name, tensor in state.items()}
        settings = network.config.settings()
        quarter = settings["width"] // settings["heads"] // 4
        blocks = range(settings["depth"])
        return OrderedDict(
            theirs | {f"vit.spatial_mix.{i}.inv_freq": torch.ones(quarter) for i in blocks}
        )
    if network.kind == "minkunet34":
        return OrderedDict(minkunet34.to_published(state, kernels))
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
VAVIT = {
    "point_width": 6,
    "point_layers": 2,
    "width": 16,
    "depth": 2,
    "heads": 2,
    "expansion": 3.0,
    "head_width": 5,
    "head_out": 7,
    "padding": "published",
    "drop_path": 0.0,
}
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
        ("minkunet34", 20, {"width_factor": 0.25, "head": "v1"}, True),
        ("minkunet34", 17, OTHER_WIDTHS | {"blocks": (1, 2, 1, 3)}, False),
        ("vavit", 20, VAVIT, True),
        ("vavit", 17, VAVIT | {"depth": 3, "heads": 1}, False),
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
    frequencies = sum(name.endswith("inv_freq") for name in state)  # hold nothing trained
    assert report.n_tensors == len(network.state_dict()) + frequencies
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


@pytest.mark.parametrize("head", ["v1", "v2"])
@pytest.mark.parametrize("kernels", ["torchsparse", "spconv", "minkowski"])
def test_minkunet34_is_imported_from_each_library(
    tmp_path: Path, kernels: KernelLayout, head: str
) -> None:
    network = small("minkunet34", n_classes=20, width_factor=0.25, head=head)
    state = published_state(network, kernels)
    source = save(tmp_path / "published.pth", state, meta={"epoch": 36})
    report = import_checkpoint(source, tmp_path / "ours.safetensors", datasets=DATASETS)
    assert (report.architecture, report.n_classes) == ("minkunet34", 20)
    assert report.n_tensors == len(state) == len(network.state_dict())
    assert report.set_aside == ()
    imported, _ = network_from_checkpoint(report.out, CPU)
    assert torch.equal(logits(imported), logits(network))
    # A tensor that is gone, one too many, and one of another library's shape.
    encoder = {"torchsparse": "net.0.kernel", "spconv": "conv1.weight", "minkowski": "conv1.kernel"}
    names = [f"backbone.encoder.{i}.1.{encoder[kernels]}" for i in (1, 2)]
    wrong = {name: tensor for name, tensor in state.items() if name != names[0]}
    wrong |= {"backbone.extra": torch.zeros(2), names[1]: state[names[1]].movedim(0, -1)}
    message = refused(tmp_path, wrong)
    assert f"missing: {names[0]}; unexpected: backbone.extra;" in message
    assert f"{names[1]} {tuple(wrong[names[1]].shape)} instead of" in message
    without_head = {n: t for n, t in state.items() if n != "decode_head.conv_seg.weight"}
    assert "decode_head.conv_seg.weight" in refused(tmp_path, without_head)
    empty = {n: t[:0] if t.ndim and ".conv_input." in n else t for n, t in state.items()}
    assert "impossible sizes" in refused(tmp_path, empty)


def test_names_of_two_libraries_in_one_file_are_refused(tmp_path: Path) -> None:
    network = small("minkunet34", n_classes=20, width_factor=0.25)
    state = published_state(network, "torchsparse")
    other = published_state(network, "minkowski")
    mixed = {n: t for n, t in state.items() if ".encoder.3.2." not in n}
    mixed |= {n: t for n, t in other.items() if ".encoder.3.2." in n}
    message = refused(tmp_path, mixed)
    assert "missing: backbone.encoder.3.2.net.0.kernel" in message
    assert "backbone.encoder.3.2.norm1.bn.bias" in message.partition("unexpected:")[2]


def test_kernels_of_all_libraries_by_offset() -> None:
    """One kernel, whose values name their offset, as each library stores it."""
    for size, first in ((3, -1), (2, 0)):
        offsets = range(first, first + size)
        ours = torch.tensor([[[[100 * x + 10 * y + z] for z in offsets] for y in offsets]
                             for x in offsets])[None].float()  # fmt: skip
        x_fastest = [100 * x + 10 * y + z for z in offsets for y in offsets for x in offsets]
        z_fastest = [100 * x + 10 * y + z for x in offsets for y in offsets for z in offsets]
        stored = torch.tensor(x_fastest).float()[:, None, None]
        assert torch.equal(our_kernel(stored, "minkowski"), ours)
        stored = torch.tensor(x_fastest if size == 3 else z_fastest).float()[:, None, None]
        assert torch.equal(our_kernel(stored, "torchsparse"), ours)
        assert torch.equal(our_kernel(ours, "spconv"), ours)
    # Two channels to three: spconv reads the memory of size 1 as (in, out), whatever its shape.
    memory = torch.arange(6.0)
    for layout, stored in (
        ("spconv", memory.view(3, 1, 1, 1, 2)),
        ("torchsparse", memory.view(2, 3)),
        ("minkowski", memory.view(2, 3)),
    ):
        assert our_kernel(stored, layout).tolist() == [[0, 3], [1, 4], [2, 5]]  # type: ignore[arg-type]


def test_every_tensor_of_a_training_checkpoint_is_kept_for_fine_tuning(tmp_path: Path) -> None:
    from pass2d.train.checkpoints.checkpoint import load_checkpoint

    network = small("2dpass", n_classes=20, hidden=8)
    source = save(tmp_path / "published.ckpt", published_state(network))
    report = import_checkpoint(source, tmp_path / "ours.safetensors", datasets=DATASETS)
    kept = load_checkpoint(report.out).part("network.")
    assert kept.keys() == network.state_dict().keys()
    for name, tensor in network.state_dict().items():
        assert torch.equal(kept[name], tensor), name
    with pytest.raises(CheckpointError, match=r"ours\.safetensors: already a checkpoint of pass2d"):
        import_checkpoint(report.out, tmp_path / "again.safetensors", datasets=DATASETS)
    assert not (tmp_path / "again.safetensors").exists()


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


def test_all_misfits_are_listed_however_many(tmp_path: Path) -> None:
    state = published_state(small("2dpass", n_classes=20, hidden=8))
    gone = [name for name in state if name.startswith(("fusion.fcs", "model_2d.layer1."))]
    assert len(gone) > 30
    strange = [f"model_3d.strange.{i}" for i in range(25)]
    kept = {name: tensor for name, tensor in state.items() if name not in gone}
    message = refused(tmp_path, {**kept, **dict.fromkeys(strange, torch.zeros(1))})
    assert all(name in message for name in (*gone, *strange))


@pytest.mark.parametrize(
    ("kind", "settings", "names"),
    [
        (
            "2dpass",
            {"hidden": 8, "image_branch": False},
            (
                "model_3d.voxel_3d_generator.PPmodel.0.weight",
                "model_3d.classifier.2.weight",
                "model_3d.spv_enc.3.p_enc.layer_out.0.weight",
            ),
        ),
        (
            "spvcnn",
            {"width_factor": 0.25},
            ("stem.0.kernel", "classifier.0.weight", "stage2.1.net.0.kernel"),
        ),
    ],
)
def test_tensors_that_tell_the_sizes_are_missed_like_all_others(
    tmp_path: Path, kind: str, settings: dict[str, object], names: tuple[str, ...]
) -> None:
    state = published_state(small(kind, n_classes=20, **settings))
    kept = {name: tensor for name, tensor in state.items() if name not in names}
    message = refused(tmp_path, {**kept, "stem.surplus": torch.zeros(1)})
    assert f"missing: {', '.join(sorted(names))}; unexpected: stem.surplus;" in message
    bent = {name: tensor[..., :3] if name in names else tensor for name, tensor in state.items()}
    bent[names[1]] = bent[names[1]][:19]
    message = refused(tmp_path, bent)
    assert "missing: none; unexpected: none;" in message
    for name in names:
        assert f"{name} {tuple(bent[name].shape)} instead of {tuple(state[name].shape)}" in message


def test_a_lone_high_block_is_unexpected(tmp_path: Path) -> None:
    state = published_state(small("2dpass", n_classes=20, hidden=8, image_branch=False))
    name = "model_3d.spv_enc.999.v_enc.0.layers.1.weight"
    assert f"unexpected: {name};" in refused(tmp_path, {**state, name: torch.zeros(8)})


def test_the_card_lies_beside_as_a_readable_file(tmp_path: Path) -> None:
    network = small("2dpass", n_classes=17, hidden=4, image_branch=False)
    source = save(tmp_path / "published.ckpt", published_state(network))
    out = tmp_path / "ours.safetensors"
    for _ in range(2):  # a card may be replaced
        report = import_checkpoint(source, out, datasets=DATASETS)
    assert report.card == tmp_path / "ours.json"
    content = json.loads(report.card.read_text())
    assert content.pop("format") == "pass2d checkpoint card"
    assert content.pop("version") == CARD_VERSION
    assert from_plain(Card, content, where="card") == read_card(out)
    assert content["info"]["labels"]["names"][1] == "barrier"
    assert content["info"]["grid"]["shape"] == [1000, 1000, 70]
    assert content["preprocessing"]["point_channels"] == ["x", "y", "z", "signal"]
    assert content["provenance"]["imported_from"] == "published.ckpt"
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"published.ckpt", "ours.safetensors", "ours.json"}


def test_importing_replaces_no_file_of_others(tmp_path: Path) -> None:
    network = small("2dpass", n_classes=20, hidden=4, image_branch=False)
    source = save(tmp_path / "a.ckpt", published_state(network))
    before = source.read_bytes()
    (tmp_path / "link.safetensors").symlink_to(source)
    notes = tmp_path / "notes.json"
    notes.write_text('{"mine": 1}')
    for out, said in (
        (source, "would replace the published checkpoint"),
        (tmp_path / "link.safetensors", "would replace the published checkpoint"),
        (tmp_path / "notes.safetensors", "another file has"),
        (tmp_path / "new.json", r"new\.safetensors"),
        (tmp_path / "notes.txt", r"ends in \.safetensors"),
    ):
        with pytest.raises(CheckpointError, match=said):
            import_checkpoint(source, out, datasets=DATASETS)
    assert source.read_bytes() == before
    assert notes.read_text() == '{"mine": 1}'
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"a.ckpt", "link.safetensors", "notes.json"}


@pytest.mark.parametrize(
    ("kind", "settings", "recipe"),
    [
        ("2dpass", {"hidden": 4, "image_branch": False}, "2dpass-small"),
        ("spvcnn", {"width_factor": 0.25}, "spvcnn"),
    ],
)
def test_an_import_evaluates_predicts_and_starts_fine_tuning(
    tmp_path: Path, kind: str, settings: dict[str, object], recipe: str
) -> None:
    network = small(kind, n_classes=20, **settings)
    source = save(tmp_path / "a.ckpt", published_state(network))
    out = tmp_path / "a.safetensors"
    import_checkpoint(source, out, datasets=DATASETS)
    data = tmp_path / "cache"
    write_sample_cache(data, sequences=("00", "08"), n_scans=1, info=DATASETS[0], n_points=300)
    assert evaluate(out, data).scans == 1
    batch().points.numpy().tofile(tmp_path / "scan.bin")
    predict(tmp_path / "scan.bin", out, tmp_path / "predictions")
    labels = np.fromfile(tmp_path / "predictions" / "scan.label", np.uint32)
    assert len(labels) == 300
    tuned = tmp_path / "run"
    plain = [f"network.settings.{key}={str(value).lower()}" for key, value in settings.items()]
    tiny = [line for line in TINY if not line.startswith("network.")]
    still = ("optimizer.learning_rate=1e-12", "epochs=1", f"start_from={out}")
    run(data, load_recipe(recipe, [*tiny, *plain, *still]), run_root=tuned)
    after = final_weights(tuned)
    for name, tensor in network.named_parameters():
        torch.testing.assert_close(after[name], tensor.detach(), atol=1e-7, rtol=1e-5)


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


@pytest.mark.parametrize("name", sorted(set(NAMED_CONFIGS) - {"spunet34"}))
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
    settings = layout.settings
    if named.kind == "vavit":  # of training alone, or as imported: no tensor tells it
        own = {"drop_path", "augment_features", "padding"}
        settings |= {k: v for k, v in network.config.settings().items() if k in own}
    rebuilt = network.config_type.from_settings(settings)
    assert rebuilt == network.config
