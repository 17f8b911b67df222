"""Turn a checkpoint of the published code into one of ours (docs/maths.md, section 9)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pass2d.cache.schema import DatasetInfo
from pass2d.common.errors import CheckpointError, ConfigError
from pass2d.common.files import open_file
from pass2d.common.text import and_more
from pass2d.models.inputs import Grid
from pass2d.models.network import Network
from pass2d.models.registry import build_network
from pass2d.train.checkpoints.card import Card, Preprocessing
from pass2d.train.checkpoints.checkpoint import (
    card_file,
    is_card_file,
    network_tensors,
    read_card,
    save_checkpoint,
    write_card_file,
)
from pass2d.train.checkpoints.published.layout import PublishedLayout, recognise
from pass2d.train.checkpoints.published.torch_file import TorchFile, open_torch_file
from pass2d.train.checkpoints.published.unpickler import Placeholder, TensorRef

_HASH_CHUNK = 2**20
_PREFIXES = ("", "module.", "model.")
"""Prefixes that wrappers put before every name."""
_SHOWN = 20
"""Number of names that an error lists, unless all are requested."""


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What was found and written."""

    source: Path
    out: Path
    card: Path
    """A readable copy of the card in `out`'s header."""
    architecture: str
    """Key of `pass2d_models.registry.MODELS`."""
    settings: dict[str, object]
    """Sizes of the network, as the tensors show them."""
    dataset: str
    """Name of the data set whose classes it predicts."""
    n_classes: int
    n_tensors: int
    """Converted tensors."""
    n_parameters: int
    """Parameters that inference needs."""
    has_image_branch: bool
    """Whether it also holds the training-only 2D branch."""
    set_aside: tuple[str, ...]
    """Tensors of the file that no network needs: class weights of the loss."""
    source_sha256: str


def import_checkpoint(path: Path, out: Path, *, datasets: Sequence[DatasetInfo]) -> ImportReport:
    """Read a published checkpoint safely, check every tensor, and write ours.

    Args:
        path: 2DPASS (any size), MinkowskiNet, SPVCNN, MinkUNet34 or VaViT, as torch.save wrote it.
        out: the new file (.safetensors), with its card also beside it (.json); the folder must
            exist.
        datasets: the known data sets; the one with as many classes gives label table and grid.

    Raises:
        CheckpointError: the file is damaged, hostile, of no known network, or its tensors are not
            exactly those of that network; or writing would replace a foreign file.
    """
    _check_target(path, out)
    _require_foreign(path)
    with open_torch_file(path) as file:
        references = _state_dict(file)
        layout = _recognise(path, references)
        layout = layout.with_scales(_scales_in_settings(file.value))
        info = _dataset(path, layout.n_classes, datasets)
        network = _network(path, layout, info)
        _check_complete(path, references, layout=layout, network=network)
        tensors = {
            name: _plain(file.tensor(reference))
            for name, reference in references.items()
            if name not in layout.set_aside
        }
        epoch = file.value.get("epoch")
    _check_finite(path, tensors)
    network.load_state_dict(layout.convert(tensors, network))
    digest = _sha256(path)
    card = Card(
        architecture=layout.architecture,
        settings=network.config.settings(),
        info=info,
        preprocessing=Preprocessing(in_volume_only=network.uses_volume),
        provenance={
            "imported_from": path.name,
            "source_sha256": digest,
            **({"source_epoch": str(epoch)} if isinstance(epoch, int) else {}),
        },
    )
    save_checkpoint(out, network_tensors(network.state_dict()), card)
    write_card_file(out)
    return ImportReport(
        source=path,
        out=out,
        card=card_file(out),
        architecture=layout.architecture,
        settings=layout.settings,
        dataset=info.name,
        n_classes=layout.n_classes,
        n_tensors=len(tensors),
        n_parameters=network.n_parameters(inference_only=True),
        has_image_branch=network.needs_images,
        set_aside=tuple(name for name in layout.set_aside if name in references),
        source_sha256=digest,
    )


def _require_foreign(source: Path) -> None:
    """Refuse what pass2d wrote itself."""
    try:
        read_card(source)
    except CheckpointError:
        return
    raise CheckpointError(f"{source}: already a checkpoint of pass2d. Use it as it is.")


def _check_target(source: Path, out: Path) -> None:
    """Refuse to replace the source or a foreign file."""
    readable = card_file(out)
    if out.suffix == readable.suffix:
        raise CheckpointError(
            f"{out}: the card is written to this name; call the checkpoint {out.stem}.safetensors"
        )
    for target in (out, readable):
        if source.exists() and target.exists() and target.samefile(source):
            raise CheckpointError(
                f"{target}: this would replace the published checkpoint; choose another name"
            )
    if out.suffix != ".safetensors":
        raise CheckpointError(f"{out}: the name of a checkpoint ends in .safetensors")
    if readable.exists() and not is_card_file(readable):
        raise CheckpointError(
            f"{readable}: the card is written beside the checkpoint under this name, which "
            "another file has; choose another name for the checkpoint"
        )


def _state_dict(file: TorchFile) -> dict[str, TensorRef]:
    """The named tensors of the file, without wrappers."""
    top = file.value
    if not isinstance(top, dict):
        raise CheckpointError(
            f"{file.path}: holds no dict of tensors, so it is not a published checkpoint"
        )
    for candidate in (top.get("state_dict"), top.get("model"), top):
        if isinstance(candidate, dict) and any(
            isinstance(value, TensorRef) for value in candidate.values()
        ):
            return _references(file.path, candidate)
    raise CheckpointError(
        f"{file.path}: holds no tensors under 'state_dict'. Is it a published checkpoint?"
    )


def _references(path: Path, state: Mapping[Any, Any]) -> dict[str, TensorRef]:
    strange = [
        str(key)[:80]
        for key, value in state.items()
        if not isinstance(key, str) or not isinstance(value, TensorRef)
    ]
    if strange:
        raise CheckpointError(f"{path}: no tensors in its state dict: {_listed(strange)}")
    return dict(state)


def _recognise(path: Path, references: dict[str, TensorRef]) -> PublishedLayout:
    """The architecture; a prefix that all names share is removed from `references`."""
    for prefix in _PREFIXES:
        if not all(name.startswith(prefix) for name in references):
            continue
        shapes = {name.removeprefix(prefix): ref.shape for name, ref in references.items()}
        try:
            layout = recognise(shapes)
        except KeyError as error:
            raise CheckpointError(
                f"{path}: looks like a published checkpoint, but a tensor that determines its size "
                f"is missing or misshapen: {error}. Is the file complete?"
            ) from error
        if layout is not None:
            for name in list(references):
                references[name.removeprefix(prefix)] = references.pop(name)
            return layout
    raise CheckpointError(
        f"{path}: none of the networks that can be imported (2DPASS, MinkowskiNet and SPVCNN "
        f"of torchsparse, MinkUNet34 of torchsparse, spconv or MinkowskiEngine, VaViT); its "
        f"tensors are {_listed(sorted(references))}"
    )


def _scales_in_settings(top: Mapping[Any, Any]) -> Sequence[int]:
    """The list of scales that the published code pickles with the tensors; () without one."""
    found: Any = top
    for key in ("hyper_parameters", "config", "model_params", "scale_list"):
        entries = found.entries if isinstance(found, Placeholder) else found
        found = entries.get(key) if isinstance(entries, dict) else None
    is_plain = isinstance(found, list) and all(type(scale) is int for scale in found)
    return found if is_plain else ()


def _dataset(path: Path, n_classes: int, datasets: Sequence[DatasetInfo]) -> DatasetInfo:
    fitting = [info for info in datasets if info.labels.n_classes == n_classes]
    if len(fitting) != 1:
        known = ", ".join(f"{info.name} ({info.labels.n_classes})" for info in datasets)
        raise CheckpointError(
            f"{path}: predicts {n_classes} classes, including the ignored one, which fits "
            f"{len(fitting)} of the known data sets: {known}"
        )
    return fitting[0]


def _network(path: Path, layout: PublishedLayout, info: DatasetInfo) -> Network:
    grid = Grid(low=info.grid.low, high=info.grid.high, shape=info.grid.shape)
    try:
        return build_network(
            layout.architecture, layout.settings, grid=grid, n_classes=layout.n_classes
        )
    except ConfigError as error:
        raise CheckpointError(f"{path}: its tensors have impossible sizes: {error}") from error


def _check_complete(
    path: Path,
    references: Mapping[str, TensorRef],
    *,
    layout: PublishedLayout,
    network: Network,
) -> None:
    """Check that exactly the tensors of the network are there, in their shapes."""
    expected = layout.expected(network)
    aside = dict.fromkeys(layout.set_aside, (layout.n_classes,))
    missing = sorted(set(expected) - set(references))
    unexpected = sorted(set(references) - set(expected) - set(aside))
    misshapen = [
        f"{name} {reference.shape} instead of {(expected | aside)[name]}"
        for name, reference in references.items()
        if name in (expected | aside) and reference.shape != (expected | aside)[name]
    ]
    if missing or unexpected or misshapen:
        raise CheckpointError(
            f"{path}: not all tensors of {layout.architecture} {layout.settings} fit; "
            f"missing: {', '.join(missing) or 'none'}; "
            f"unexpected: {', '.join(unexpected) or 'none'}; "
            f"of another shape: {', '.join(misshapen) or 'none'}. Nothing was written."
        )


def _check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    broken = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise CheckpointError(
            f"{path}: values that are not finite in {_listed(broken)}: the run had diverged, or "
            "the file is damaged. Nothing was written."
        )


def _plain(tensor: Tensor) -> Tensor:
    """Weights in float32, counters in int64."""
    return tensor.float() if tensor.is_floating_point() else tensor.to(torch.int64)


def _listed(names: Sequence[str]) -> str:
    return and_more(names, _SHOWN) or "none"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with os.fdopen(open_file(path), "rb") as file:
        while chunk := file.read(_HASH_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
