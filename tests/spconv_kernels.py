"""Which sparse layers lack a kernel that spconv was built with; run as a process of its own.

Imported without a GPU, pass2d leaves spconv's lists of kernels empty, which this needs full. The
answer is one line of JSON on stdout: [[layer, type, architecture, operation], ...].
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import torch
from cumm import tensorview as tv
from cumm.conv.bases import KRSC, NHWC, ConvOpType
from spconv import core

from pass2d.models.backends.spconv import of_floats
from pass2d.models.inputs import Grid
from pass2d.models.registry import build_network
from pass2d.train.recipes.files import recipe_names
from pass2d.train.recipes.recipe import load_recipe, network_settings

core.ALL_IMPGEMM_PARAMS[:] = of_floats(core.ALL_IMPGEMM_PARAMS)  # as with a GPU
core.ALL_NATIVE_PARAMS.clear()  # of another algorithm
from spconv.algo import CONV  # noqa: E402

GRID = Grid(low=(-50, -50, -4), high=(50, 50, 2), shape=(1000, 1000, 60))
ARCHITECTURES = ((8, 0), (9, 0), (10, 0), (12, 0))
TYPES = {
    "float32": (tv.float32, False, None),
    "TF32": (tv.float32, True, None),
    "float16": (tv.float16, False, True),
}
"""Type, whether TF32 is allowed, whether sums are float32."""
OPERATIONS = {
    "forward": ConvOpType.kForward,
    "gradient of rows": ConvOpType.kBackwardInput,
    "gradient of weights": ConvOpType.kBackwardWeight,
}
_ROWS = 64
_MASK_WIDTH = 128


def layers() -> Iterator[tuple[int, int, int]]:
    """(C_in, C_out, offsets) of each sparse layer of each recipe."""
    networks: dict[str, tuple[str, dict[str, Any]]] = {}  # many recipes have the same one
    for name in recipe_names():
        kind, settings = network_settings(load_recipe(name))
        if "image_branch" in settings:  # its layers are torch's
            settings["image_branch"] = False
        for has_time in (False, True) if "time_channel" in settings else (False,):
            changed = {**settings, "time_channel": True} if has_time else settings
            networks[json.dumps([kind, changed], sort_keys=True)] = kind, changed
    for kind, settings in networks.values():
        with torch.device("meta"):
            network = build_network(kind, settings, grid=GRID, n_classes=20, device="meta")
        for weight in network.parameters():
            if weight.ndim == 5:
                yield weight.shape[4], weight.shape[0], weight.shape[1] ** 3


def without_kernel(layer: tuple[int, int, int]) -> Iterator[tuple[str, str, str, str]]:
    """Type, architecture and operation for which a layer has no kernel of the build."""
    n_in, n_out, offsets = layer
    for type_name, (dtype, tf32, fp32_accum) in TYPES.items():
        rows = tv.zeros([_ROWS, n_in], dtype, -1)
        weight = tv.zeros([n_out, offsets, n_in], dtype, -1)
        out = tv.zeros([_ROWS, n_out], dtype, -1)
        for arch in ARCHITECTURES:
            for operation, op in OPERATIONS.items():
                found = CONV.get_all_available(
                    rows, weight, out, NHWC, KRSC, NHWC, arch, op, _MASK_WIDTH, fp32_accum, tf32
                )
                if not any(
                    not one.is_nvrtc and str(one) in CONV.prebuilt_desp_names for one in found
                ):
                    yield str(layer), type_name, f"sm_{arch[0]}{arch[1]}", operation


if __name__ == "__main__":
    distinct = sorted(set(layers()))
    lacking = [answer for layer in distinct for answer in without_kernel(layer)]
    sys.stdout.write("\n" + json.dumps({"layers": len(distinct), "lacking": lacking}) + "\n")
