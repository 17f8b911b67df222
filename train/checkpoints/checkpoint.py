"""Checkpoint files: safetensors, with a JSON card that contains all that prediction needs.

Names of tensors start with what they belong to: ``network.`` (a state dict), ``optimizer.``,
``average.``, ``totals.``. A file is written under a temporary name and renamed; a hash over card
and tensors detects damage.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pass2d.common.errors import CheckpointError, ConfigError
from pass2d.common.files import open_file, read_whole, whole_file
from pass2d.common.json import parse
from pass2d.common.plain import to_plain
from pass2d.models.inputs import Grid
from pass2d.train.checkpoints.card import CARD_VERSION, Card
from pass2d.train.checkpoints.header import (
    card_of,
    damaged,
    dumps,
    loads_once,
    require_file,
    under_new_names,
)
from pass2d.train.checkpoints.onnx_file import is_onnx

if TYPE_CHECKING:
    from pass2d.models.network import Network

NETWORK = "network."
CARD_FORMAT = "pass2d checkpoint card"
_SPARE_VALUES, _SPARE_TENSORS = 10_000_000, 1000
"""Tensors and values that a network may have in addition to four times those in its file."""
_MAKES_TENSORS = frozenset(
    {
        *(torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn),
        *(torch.arange, torch.linspace, torch.eye, torch.randint, torch.randperm),
    }
)
_UNREADABLE = (
    *(OSError, SafetensorError),
    *(AttributeError, KeyError, RuntimeError, TypeError, ValueError),  # types that torch lacks
)
HEADER_KEY = "pass2d"  # one key only: safetensors writes several in random order


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A verified checkpoint, on the CPU."""

    card: Card
    tensors: dict[str, Tensor]
    """By full name, e.g. "network.head.0.weight"."""

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors with a prefix such as ``network.`` in their name, by the rest of the name."""
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}


def network_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a network's state dict under the names that a checkpoint uses."""
    return {NETWORK + name: tensor for name, tensor in state.items()}


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], card: Card) -> None:
    """Write a checkpoint so that ``path`` is at any time the old file, or the whole new one.

    Args:
        path: target; its folder must exist.
        tensors: any device; names with prefix, see the module.
        card: what the header carries.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written.
    """
    ready = _own_memory(tensors)
    card_json = dumps(to_plain(card))
    header = dumps({"version": CARD_VERSION, "card": card_json, "xxh3": _digest(card_json, ready)})
    try:
        with whole_file(path) as aside:
            aside.touch()
            mode = aside.stat().st_mode  # what the umask allows; safetensors makes it private
            save_file(ready, aside, metadata={HEADER_KEY: header})
            aside.chmod(mode)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: the checkpoint could not be written: {error}. "
            "Is the disk full, or the folder not writable? An older file of this name is untouched."
        ) from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and verify a checkpoint.

    Raises:
        CheckpointError: the file is missing, not a pass2d checkpoint, of a newer format, truncated
            or damaged.
    """
    header = _read_header(path)
    try:
        with open_tensors(path) as file:
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
        digest = _digest(header["card"], tensors)
    except _UNREADABLE as error:
        raise damaged(path, str(error)) from error
    if digest != header["xxh3"]:
        raise damaged(path, "its content does not match its checksum")
    return Checkpoint(card=_card(path, header), tensors=tensors)


@contextlib.contextmanager
def open_tensors(path: Path) -> Iterator[Any]:
    """Open the tensors of a checkpoint, also below a folder whose name is not UTF-8.

    Raises:
        OSError: no regular file.
        SafetensorError: none of that format.
    """
    descriptor = open_file(path)
    try:
        # The library takes no other names than UTF-8: it gets the kernel's own of the open file.
        own = f"/proc/self/fd/{descriptor}"
        with safe_open(own, framework="pt", device="cpu") as file:
            yield file
    finally:
        os.close(descriptor)


def read_card(path: Path) -> Card:
    """Read the card alone, quickly; the tensors are not verified.

    Raises:
        CheckpointError: as `load_checkpoint`, as far as the header shows it.
    """
    return _card(path, _read_header(path))


def content_digest(path: Path) -> str:
    """The hash over card and tensors from the header: a quick way to distinguish checkpoints.

    Raises:
        CheckpointError: as `read_card`.
    """
    return str(_read_header(path)["xxh3"])


def card_file(path: Path) -> Path:
    """The path of the readable copy of a checkpoint's card."""
    return path.with_suffix(".json")


def write_card_file(path: Path) -> None:
    """Copy the card out of a checkpoint's header, for people and other programs.

    Only the header is ever read back. The file is written completely or not at all.

    Raises:
        CheckpointError: as `read_card`, or the folder cannot be written.
    """
    target = card_file(path)
    content = {"format": CARD_FORMAT, "version": CARD_VERSION, **to_plain(read_card(path))}
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    try:
        with whole_file(target) as aside:
            aside.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CheckpointError(
            f"{target}: the card could not be written: {error}. {path} is complete without it."
        ) from error


def is_card_file(path: Path) -> bool:
    """Whether a file is such a copy and may be replaced by a newer one."""
    try:
        content = parse(read_whole(path))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("format") == CARD_FORMAT


def network_from_checkpoint(
    path: Path, device: torch.device, *, backend: str = "auto"
) -> tuple[Network, Card]:
    """Build the network of a checkpoint for inference and load its weights.

    Args:
        path: an inference export or a training state.
        device: where the network will run; need not be that of training.
        backend: of its sparse convolutions; need not be that of training.

    Returns:
        The network in eval mode, and the card.

    Raises:
        CheckpointError: as `load_checkpoint`, or the tensors do not fit the card.
        ConfigError: the backend is unknown, or does not work on the device.
    """
    from pass2d.models.backends.choice import choose_backend

    checkpoint = load_checkpoint(path)
    choose_backend(backend, device)
    try:
        with _no_larger_than(checkpoint, path):
            network = build_from_card(checkpoint.card, device, backend=backend)
    except ConfigError as error:
        raise CheckpointError(
            f"{path}: its card describes no network: {error}. Was it written by another version of "
            "pass2d, or changed?"
        ) from error
    load_inference_state(network, checkpoint, path)
    return network.eval(), checkpoint.card


@contextlib.contextmanager
def _no_larger_than(checkpoint: Checkpoint, path: Path) -> Iterator[None]:
    """Refuse a network that is far larger than its file, before memory is allocated for it.

    Slightly more is normal: training-only parts, layers that are built and then replaced.

    Raises:
        CheckpointError: the card describes a network that the file does not contain.
    """
    tensors = checkpoint.part(NETWORK).values()
    n_values = sum(tensor.numel() for tensor in tensors)
    limit = _TensorLimit(4 * n_values + _SPARE_VALUES, 4 * len(tensors) + _SPARE_TENSORS)
    try:
        with limit:
            yield
    except (_TooLargeError, OverflowError) as error:
        raise CheckpointError(
            f"{path}: its card describes a network that is far larger; the file holds "
            f"{len(tensors)} tensors with {n_values:,} values. The file is damaged."
        ) from error


class _TooLargeError(Exception):
    """More tensors or values than allowed, or than possible."""


class _TensorLimit(TorchFunctionMode):
    """Ends in `_TooLargeError` when this thread makes more tensors or values, before they exist."""

    def __init__(self, n_values: int, n_tensors: int) -> None:
        super().__init__()
        self._n_values, self._n_tensors = n_values, n_tensors

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run a function of torch; if it makes a tensor, count that tensor first."""
        kwargs = kwargs or {}
        if func in _MAKES_TENSORS:
            try:
                self._n_values -= func(*args, **{**kwargs, "device": "meta"}).numel()
            except (RuntimeError, TypeError) as error:  # no tensor has so many
                raise _TooLargeError from error
            self._n_tensors -= 1
            if min(self._n_values, self._n_tensors) < 0:
                raise _TooLargeError
        return func(*args, **kwargs)


def build_from_card(card: Card, device: torch.device, *, backend: str = "auto") -> Network:
    """An untrained network of the card's architecture, data set and grid, for inference only."""
    from pass2d.models.registry import build_network

    settings = dict(card.settings)
    if "image_branch" in settings:  # trained with pictures or not: inference has none
        settings["image_branch"] = False
    return build_network(
        card.architecture,
        settings,
        grid=grid_of(card),
        n_classes=card.info.labels.n_classes,
        device=device,
        backend=backend,
    )


def grid_of(card: Card) -> Grid:
    """The grid of the card's data set, as networks take it."""
    grid = card.info.grid
    return Grid(low=grid.low, high=grid.high, shape=grid.shape)


def load_inference_state(network: Network, checkpoint: Checkpoint, path: Path) -> None:
    """Fill the tensors that inference needs; training-only parts of the file are ignored.

    Raises:
        CheckpointError: one of them is missing, has another shape or is not finite.
    """
    stored = checkpoint.part(NETWORK)
    needed = network.inference_state()
    missing = sorted(name for name in needed if name not in stored)
    misshapen = sorted(
        f"{name} is {_kind(stored[name])}, expected {_kind(tensor)}"
        for name, tensor in needed.items()
        if name in stored and _kind(stored[name]) != _kind(tensor)
    )
    if missing or misshapen:
        raise CheckpointError(
            f"{path}: its tensors do not fit the architecture "
            f"{checkpoint.card.architecture!r} of its card; missing: {missing[:5] or 'none'}, "
            f"of another shape: {misshapen[:5] or 'none'}. "
            "Was it written by another version of pass2d?"
        )
    require_finite({name: stored[name] for name in needed}, path)
    network.load_state_dict({name: stored[name] for name in needed}, strict=False)


def require_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse the weights of a training that diverged: their predictions are one class or none.

    Raises:
        CheckpointError: One is NaN or infinite.
    """
    bad = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if bad:
        raise CheckpointError(
            f"{path}: {len(bad)} of {len(tensors)} tensors contain NaN or infinity "
            f"({', '.join(sorted(bad)[:3])}): the training diverged, or the file was converted to "
            "a type that is too narrow. Use an earlier checkpoint."
        )


def _kind(tensor: Tensor) -> str:
    """Shape, and the type unless it is a float of some width."""
    name = "" if tensor.is_floating_point() else f" {tensor.dtype}".replace("torch.", "")
    return f"{tuple(tensor.shape)}{name}"


def _read_header(path: Path) -> dict[str, Any]:
    require_file(path)
    try:
        with open_tensors(path) as file:
            metadata = file.metadata() or {}
    except _UNREADABLE as error:
        if is_onnx(path):
            raise CheckpointError(
                f"{path}: an exported network, which only `predict` and `Segmenter` run. Give the "
                "checkpoint that it was exported from"
            ) from error
        if path.suffix != ".safetensors":
            raise CheckpointError(
                f"{path}: not a pass2d checkpoint ({error!s:.200}). One of the published code "
                "is imported first: `import_checkpoint(out=FILE.safetensors)`."
            ) from error
        raise damaged(path, str(error)) from error
    if HEADER_KEY not in metadata:
        raise CheckpointError(
            f"{path}: a safetensors file, but without pass2d's card in its header"
        )
    try:
        header: dict[str, Any] = loads_once(metadata[HEADER_KEY])
        version, card, xxh3 = header["version"], header["card"], header["xxh3"]
        if type(version) is not int or not isinstance(card, str) or not isinstance(xxh3, str):
            raise TypeError("expected a version, a card and a hash")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(path, f"its header is unreadable ({error!s:.200})") from error
    if version != CARD_VERSION:
        raise CheckpointError(
            f"{path}: checkpoint format {version!s:.20}, this pass2d reads {CARD_VERSION}: "
            + ("update pass2d" if version > CARD_VERSION else "write it again with this version")
        )
    return header


def _card(path: Path, header: dict[str, Any]) -> Card:
    try:
        return card_of(header["card"])
    except ValueError as error:
        raise damaged(path, str(error)) from error


def card_notes(path: Path) -> list[str]:
    """A readable line for each old name in a checkpoint's card.

    Raises:
        CheckpointError: no readable checkpoint.
    """
    header = _read_header(path)
    _card(path, header)
    return under_new_names(json.loads(header["card"]))[1]


def _digest(card_json: str, tensors: Mapping[str, Tensor]) -> str:
    content = xxhash.xxh3_128(card_json.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        content.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        content.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()


def _own_memory(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, contiguous, sharing no memory: safetensors refuses tied weights."""
    ready: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in sorted(tensors.items()):
        own = tensor.detach().to("cpu").contiguous()
        is_part = own.untyped_storage().nbytes() != own.nbytes
        if is_part or own.data_ptr() in seen:
            own = own.clone()
        seen.add(own.data_ptr())
        ready[name] = own
    return ready
