"""2DPASS: the 3D network that inference uses, and the 2D branch that training distils from."""

from __future__ import annotations

from typing import ClassVar

from pass2d_models.config import TwoDPassConfig
from pass2d_models.network import Network, NetworkConfig


class TwoDPass(Network):
    """2DPASS (SPEC, sections 4 and 5)."""

    kind: ClassVar[str] = "2dpass"
    config_type: ClassVar[type[NetworkConfig]] = TwoDPassConfig
    training_only: ClassVar[tuple[str, ...]] = ("image_encoder.", "distillation.")
