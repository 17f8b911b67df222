"""Exported networks: ONNX files with a card in their metadata. No torch.

A file is the graph's bytes, then an ONNX message of the metadata alone: protobuf joins the two. So
the graph's bytes can be hashed as they are in the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import xxhash

from pass2d.common.errors import CheckpointError, ConfigError
from pass2d.common.files import read_whole
from pass2d.common.plain import from_plain, to_plain
from pass2d.models.vavit.pillars import INPUTS, PillarPreprocessing
from pass2d.points.columns import error_line, reader_package
from pass2d.train.checkpoints.card import Card
from pass2d.train.checkpoints.header import card_of, dumps, loads_once, require_file

SUFFIX = ".onnx"
VERSION = 1
OutputName = Literal["logits", "probabilities"]
OUTPUTS: tuple[OutputName, ...] = get_args(OutputName)
EXTRA = "onnx"
_CARD, _DIGEST = "pass2d", "xxh3"


@dataclass(frozen=True, kw_only=True)
class OnnxFile:
    """A verified file, ready to run."""

    session: Any
    """An `onnxruntime.InferenceSession` on the CPU."""
    card: Card
    preprocessing: PillarPreprocessing
    output: OutputName


def is_onnx(path: object) -> bool:
    """Whether this names an exported network."""
    return isinstance(path, (str, Path)) and Path(path).suffix.lower() == SUFFIX


def metadata_of(card: Card, *, preprocessing: object, output: OutputName) -> dict[str, str]:
    """A file's metadata: the card for pass2d, and its parts for other programs."""
    table = card.info.labels
    return {
        _CARD: dumps({"version": VERSION, "card": dumps(to_plain(card))}),
        "class_names": dumps(list(table.names)),
        "raw_ids": dumps(list(table.training_to_raw)),
        "colors_rgb": dumps(to_plain(table.colors_rgb)),
        "preprocessing": dumps(to_plain(preprocessing)),
        "output": output,
    }


def digest(graph: bytes | memoryview, metadata: Mapping[str, str]) -> dict[str, str]:
    """The entries that detect damage: the graph's length, and a hash over everything."""
    known = {**metadata, "graph_bytes": str(len(graph))}
    content = xxhash.xxh3_128(dumps(known).encode())
    content.update(graph)
    return {"graph_bytes": known["graph_bytes"], _DIGEST: content.hexdigest()}


def file_digest(path: Path) -> str:
    """A hash of the whole file, which identifies an exported network.

    Raises:
        CheckpointError: It cannot be read.
    """
    return xxhash.xxh3_128_hexdigest(_read(path))


def open_onnx(path: Path, *, threads: int) -> OnnxFile:
    """Read and verify an exported network.

    Args:
        path: As `pass2d export` wrote it.
        threads: Number of threads that compute.

    Raises:
        ConfigError: onnxruntime is not installed.
        CheckpointError: The file is missing, not written by pass2d, changed, truncated or damaged,
            or needs a newer onnxruntime.
    """
    data = _read(path)
    session = _session(path, data, threads=threads)
    metadata = dict(session.get_modelmeta().custom_metadata_map)
    stated = metadata.pop(_DIGEST, None)
    length = metadata.pop("graph_bytes", "")
    if stated is None or _CARD not in metadata or not length.isdecimal():
        raise CheckpointError(
            f"{path}: an ONNX file, but without pass2d's card in its metadata. Write it with "
            "`export` from a checkpoint"
        )
    if digest(memoryview(data)[: int(length)], metadata)[_DIGEST] != stated:
        raise CheckpointError(
            f"{path}: damaged, or changed since it was exported: its content does not match its "
            "checksum. Copy it again, or export it again from the checkpoint"
        )
    try:
        header = loads_once(metadata[_CARD])
        if header["version"] != VERSION:
            raise ValueError(f"form {header['version']!s:.20}, this pass2d reads {VERSION}")
        card = card_of(header["card"])
        preprocessing = from_plain(
            PillarPreprocessing, loads_once(metadata["preprocessing"]), where="preprocessing"
        )
        output = from_plain(_Output, {"output": metadata["output"]}, where="metadata").output
        _require_form(session, card, output, preprocessing)
    except (ValueError, KeyError, TypeError, RecursionError, ConfigError) as error:
        raise CheckpointError(
            f"{path}: not an exported network that this pass2d can run: {error_line(error)}. "
            "Export it again from the checkpoint"
        ) from error
    return OnnxFile(session=session, card=card, preprocessing=preprocessing, output=output)


@dataclass(frozen=True, kw_only=True)
class _Output:
    output: OutputName


def _read(path: Path) -> bytes:
    require_file(path)
    try:
        return read_whole(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error


def _session(path: Path, data: bytes, *, threads: int) -> Any:
    onnxruntime = reader_package("onnxruntime", path, needs="onnxruntime", extra=EXTRA)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised as well
    options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no base of their own
        raise CheckpointError(
            f"{path}: onnxruntime {onnxruntime.__version__} does not read it: {error_line(error)}. "
            "It is truncated or damaged, not an ONNX file, or made for a newer onnxruntime: copy "
            "or export it again, or update onnxruntime"
        ) from error


def _require_form(session: Any, card: Card, output: OutputName, how: PillarPreprocessing) -> None:
    """Compare a graph's inputs and output with its metadata."""
    found = {node.name: tuple(node.shape) for node in session.get_inputs()}
    widths = {"features": (len(how.features),), "neighbours": (how.neighbours,), "pillar_xy": (2,)}
    expected = {name: (axis, *widths.get(name, ())) for name, axis in INPUTS.items()}
    if found != expected:
        raise ValueError(f"inputs {found}, expected {expected}")
    out = [(node.name, tuple(node.shape)[1:]) for node in session.get_outputs()]
    if out != [(output, (card.info.labels.n_classes,))]:
        raise ValueError(
            f"outputs {out}, expected {output} of {card.info.labels.n_classes} classes"
        )
