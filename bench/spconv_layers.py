"""spconv's own layers, imported as pass2d imports spconv: without its slow parts."""

from __future__ import annotations

from pass2d.models.backends.spconv import library

library()
from spconv.core import ConvAlgo  # noqa: E402
from spconv.pytorch import (  # noqa: E402
    SparseConv3d,
    SparseConvTensor,
    SparseInverseConv3d,
    SubMConv3d,
)

__all__ = ["ConvAlgo", "SparseConv3d", "SparseConvTensor", "SparseInverseConv3d", "SubMConv3d"]
