"""A checkpoint's network as an ONNX file."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pass2d.common.errors import ConfigError
from pass2d.common.files import written_whole
from pass2d.models.network import ExportForm
from pass2d.points.columns import error_line, reader_package
from pass2d.train.checkpoints.checkpoint import network_from_checkpoint
from pass2d.train.checkpoints.onnx_file import (
    EXTRA,
    OUTPUTS,
    SUFFIX,
    OutputName,
    digest,
    metadata_of,
)

OPSET = 20
"""The first with GELU."""
MOST_BYTES = 2**31 - 2**20
"""Of weights in one protobuf message."""
TOLERANCE = 1e-4
"""Largest difference between the file's output and torch's, relative to the largest value."""


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was written."""

    out: Path
    architecture: str
    n_classes: int
    n_parameters: int
    output: OutputName
    opset: int
    nbytes: int
    largest_difference: float
    """Difference between the outputs of onnxruntime and torch for the example."""


def export_onnx(checkpoint: Path, out: Path, *, output: OutputName = "logits") -> ExportReport:
    """Write a checkpoint's network as an ONNX file, and compare its output with torch's.

    Args:
        checkpoint: An inference export or a training state.
        out: The file, NAME.onnx; its folder must exist. It is written completely or not at all.
        output: What the graph returns: logits, or their softmax.

    Raises:
        CheckpointError: The checkpoint cannot be read.
        ConfigError: The network has sparse convolutions or is too large; the file's name does not
            end in .onnx; a package is missing; torch cannot export it, or not accurately.
        DataError: The file cannot be written.
    """
    if out.suffix.lower() != SUFFIX:
        raise ConfigError(f"{out}: an exported network is recognised by its name: NAME{SUFFIX}")
    if output not in OUTPUTS:
        raise ConfigError(f"`output` must be one of {', '.join(OUTPUTS)}, got {output!r}")
    network, card = network_from_checkpoint(checkpoint, torch.device("cpu"))
    form = network.export_form()
    n_parameters = network.n_parameters(inference_only=True)
    if 4 * n_parameters > MOST_BYTES:
        raise ConfigError(f"{checkpoint}: {n_parameters:,} weights do not fit one ONNX file (2 GB)")
    for package in ("onnx", "onnxscript", "onnxruntime"):
        reader_package(package, out, needs=package, extra=EXTRA)
    model = _model(form, output)
    graph = model.SerializeToString(deterministic=True)
    provenance = {**card.provenance, "exported_from": checkpoint.name, "torch": torch.__version__}
    metadata = metadata_of(
        replace(card, holds="inference", run={}, provenance=provenance),
        preprocessing=form.preprocessing,
        output=output,
    )
    content = graph + _metadata_message({**metadata, **digest(graph, metadata)})
    difference = _compare(content, form, output, out)
    with written_whole(out, "the exported network") as aside:
        aside.write_bytes(content)
    return ExportReport(
        out=out,
        architecture=card.architecture,
        n_classes=card.info.labels.n_classes,
        n_parameters=n_parameters,
        output=output,
        opset=OPSET,
        nbytes=len(content),
        largest_difference=difference,
    )


def _model(form: ExportForm, output: OutputName) -> Any:
    """The graph as an ONNX message, without what tells where it was made."""
    import onnx

    lengths = {axis: torch.export.Dim(axis, min=2) for axis in form.axes.values()}
    try:
        with _quiet():
            # Traced here: left to the exporter, lengths that it cannot vary silently become fixed.
            traced = torch.export.export(
                form.graph,
                tuple(form.inputs.values()),
                dynamic_shapes=tuple({0: lengths[form.axes[name]]} for name in form.inputs),
            )
            program = torch.onnx.export(
                traced,
                dynamo=True,
                input_names=list(form.inputs),
                output_names=["logits"],
                opset_version=OPSET,
                verbose=False,
            )
        assert program is not None
        model = program.model_proto
    except Exception as error:  # the exporter raises anything, with its cause behind it
        raise ConfigError(
            f"torch {torch.__version__} could not export the network: "
            f"{error_line(error.__cause__ or error)}"
        ) from error
    # Lengths have names of the tracer.
    first = {value.name: value.type.tensor_type.shape.dim[0] for value in model.graph.input}
    names = {first[name].dim_param: axis for name, axis in form.axes.items()}
    for length in (*first.values(), model.graph.output[0].type.tensor_type.shape.dim[0]):
        length.dim_param = names[length.dim_param]
    if output == "probabilities":
        softmax = onnx.helper.make_node("Softmax", ["logits"], [output], axis=1)
        model.graph.node.append(softmax)
        model.graph.output[0].name = output
    for node in model.graph.node:  # lines of source and paths of this machine
        del node.metadata_props[:]
        node.doc_string = ""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's remarks are about its own ways."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _metadata_message(metadata: dict[str, str]) -> bytes:
    """A message of metadata alone: behind another one it is part of that."""
    import onnx

    message = onnx.ModelProto()
    onnx.helper.set_model_props(message, metadata)
    return message.SerializeToString(deterministic=True)


def _compare(content: bytes, form: ExportForm, output: OutputName, out: Path) -> float:
    """The largest difference between the file's output and torch's.

    Raises:
        ConfigError: It is more than rounding.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    feed: dict[str, Tensor] = dict(form.inputs)
    with torch.inference_mode():
        logits = form.graph(*feed.values())
    expected = (logits if output == "logits" else logits.softmax(dim=1)).numpy()
    found = session.run(None, {name: tensor.numpy() for name, tensor in feed.items()})[0]
    # The ignored class has a constant of its own size.
    largest = float(np.abs(expected[:, 1:]).max())
    difference = float(np.abs(found - expected).max())
    if not difference <= TOLERANCE * max(1.0, largest):
        raise ConfigError(
            f"{out}: not written: the output of the exported network differs from torch's by "
            f"{difference:.3g}. Try another version of torch or onnxscript"
        )
    return difference
