"""How many processes a machine is trusted with."""

from __future__ import annotations

import pytest

from pass2d.common.errors import ConfigError
from pass2d.common.processes import require_few


@pytest.mark.parametrize(("cores", "most"), [(1, 16), (4, 16), (5, 20), (128, 512)])
def test_four_per_core_and_sixteen_in_any_case(cores: int, most: int) -> None:
    require_few(most, "nproc", cores=cores)
    with pytest.raises(ConfigError, match=rf"`nproc={most + 1}`: at most {most} processes"):
        require_few(most + 1, "nproc", cores=cores)
