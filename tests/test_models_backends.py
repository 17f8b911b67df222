"""Backends of sparse convolutions: dense convolutions, each other, and which one is chosen."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from missing_modules import SPCONV, without
from torch import Tensor
from torch.nn import functional

from pass2d.common.errors import ConfigError
from pass2d.common.spconv_builds import spconv_problem
from pass2d.models.backends import choice, native, triton
from pass2d.models.backends.choice import choose_backend
from pass2d.models.backends.implicit_gemm import GemmLibrary
from pass2d.models.backends.interface import Axes, Backend, ConvTable, Volume
from pass2d.models.backends.spconv import of_floats
from pass2d.models.backends.tf32 import tf32_products
from pass2d.models.inputs import Grid, PointBatch
from pass2d.models.registry import build_network

CPU = torch.device("cpu")
EXTENT = (9, 7, 6)
GRID = Grid(low=(-50, -50, -4), high=(50, 50, 2), shape=(1000, 1000, 60))


@pytest.fixture(params=["native", "native in small tiles", "spconv"])
def backend(request: pytest.FixtureRequest) -> Backend:
    name, _, in_small_tiles = request.param.partition(" ")
    if in_small_tiles:
        return native.Native(cpu_tile=16)
    if name == "spconv":
        pytest.importorskip("spconv")
    return choose_backend(name, CPU).backend


def some_voxels(seed: int, axes: Axes, *, share: float = 0.3) -> Tensor:
    """(V, 4) int32 of two samples, sorted by (batch, x, y, z), columns in the order of `axes`."""
    is_there = np.random.default_rng(seed).random((2, *EXTENT)) < share
    voxels = torch.from_numpy(np.argwhere(is_there).astype(np.int32))
    return voxels if axes == "xyz" else voxels[:, [0, 3, 2, 1]]


def dense(features: Tensor, coords: Tensor, extent: tuple[int, int, int]) -> Tensor:
    """(B, C, a, b, c) with zeros where there is no voxel."""
    grid = features.new_zeros((2, *extent, features.shape[1]))
    return grid.index_put(tuple(coords.long().t()), features).permute(0, 4, 1, 2, 3)


def at(grid: Tensor, coords: Tensor) -> Tensor:
    """(V, C) of a dense grid."""
    return grid.permute(0, 2, 3, 4, 1)[tuple(coords.long().t())]


def compare(
    table: ConvTable, plain: Any, n_in: int, *, kernel: tuple[int, ...], dtype: torch.dtype
) -> None:
    """Values and both gradients of a layer with 3 channels to 5."""
    torch.manual_seed(1)
    features = torch.randn(n_in, 3, dtype=dtype, requires_grad=True)
    weight = torch.randn(5, *kernel, 3, dtype=dtype, requires_grad=True)
    ours, theirs = table.convolve(features, weight), plain(features, weight)
    assert ours.dtype == dtype
    limit = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {}
    torch.testing.assert_close(ours, theirs, **limit)
    towards = torch.randn_like(theirs)
    found = torch.autograd.grad(ours, (features, weight), towards)
    expected = torch.autograd.grad(theirs, (features, weight), towards)
    for own, other in zip(found, expected, strict=True):
        assert own.is_contiguous()
        torch.testing.assert_close(own, other, **limit)


@pytest.mark.parametrize("axes", ["xyz", "zyx"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_layers_equal_dense_convolutions_forward_and_backward(
    backend: Backend, axes: Axes, dtype: torch.dtype
) -> None:
    coords = some_voxels(0, axes)
    extent = EXTENT if axes == "xyz" else EXTENT[::-1]
    volume = Volume(extent=extent, batch_size=2, axes=axes)

    def around(features: Tensor, weight: Tensor) -> Tensor:
        grid, pad = dense(features, coords, extent), weight.shape[1] // 2
        return at(functional.conv3d(grid, weight.permute(0, 4, 1, 2, 3), padding=pad), coords)

    for size in (3, 5):
        table = backend.neighbours(coords, volume, size=size)
        compare(table, around, len(coords), kernel=(size,) * 3, dtype=dtype)
    halving = backend.halve(coords, volume)
    even = tuple(size + size % 2 for size in extent)
    half = tuple(size // 2 for size in even)
    order = [0, 1, 2, 3] if axes == "xyz" else [0, 3, 2, 1]
    parents = coords.clone()
    parents[:, 1:] //= 2
    assert [tuple(row) for row in halving.coords.tolist()] == sorted(
        {tuple(row) for row in parents.tolist()}, key=lambda row: [row[i] for i in order]
    )

    def down(features: Tensor, weight: Tensor) -> Tensor:
        grid = dense(features, coords, even)
        stepped = functional.conv3d(grid, weight.permute(0, 4, 1, 2, 3), stride=2)
        return at(stepped, halving.coords)

    def up(features: Tensor, weight: Tensor) -> Tensor:
        grid = dense(features, halving.coords, half)
        kernel = weight.permute(4, 0, 1, 2, 3)
        return at(functional.conv_transpose3d(grid, kernel, stride=2), coords)

    compare(halving.down, down, len(coords), kernel=(2, 2, 2), dtype=dtype)
    compare(halving.up, up, len(halving.coords), kernel=(2, 2, 2), dtype=dtype)


@pytest.mark.parametrize("count", [1, 2])
def test_single_voxels(backend: Backend, count: int) -> None:
    coords = torch.tensor([[0, 1, 1, 1], [0, 7, 5, 5]], dtype=torch.int32)[:count]
    volume = Volume(extent=EXTENT, batch_size=1)
    features, weight = torch.randn(count, 2), torch.randn(3, 3, 3, 3, 2)
    alone = backend.neighbours(coords, volume).convolve(features, weight)
    torch.testing.assert_close(alone, features @ weight[:, 1, 1, 1].t())
    halving = backend.halve(coords, volume)
    kernel = torch.randn(3, 2, 2, 2, 2)
    torch.testing.assert_close(
        halving.down.convolve(features, kernel), features @ kernel[:, 1, 1, 1].t()
    )


def test_autocast_leaves_sparse_layers_in_float32(backend: Backend) -> None:
    coords = some_voxels(2, "xyz")
    table = backend.neighbours(coords, Volume(extent=EXTENT, batch_size=2))
    features = torch.randn(len(coords), 4, requires_grad=True)
    weight = torch.randn(4, 3, 3, 3, 4, requires_grad=True)
    expected = table.convolve(features, weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = table.convolve(features, weight)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        halved = table.convolve(features.bfloat16(), weight)
    (grad,) = torch.autograd.grad(halved.sum(), weight)
    assert halved.dtype == grad.dtype == torch.float32


def test_native_gives_the_same_bits_on_every_run() -> None:
    def run() -> list[Tensor]:
        torch.manual_seed(0)
        network = build_network(
            "minkowskinet", {"width_factor": 0.25}, grid=GRID, n_classes=5, backend="native"
        )
        points = torch.randn(3000, 4) * torch.tensor([3, 3, 0.5, 0.1])
        prepared = network.prepare(PointBatch(points=points, offsets=torch.tensor([0, 3000])))
        logits = network(prepared).row_logits
        logits.square().mean().backward()
        return [logits, *(p.grad for p in network.parameters() if p.grad is not None)]

    for first, second in zip(run(), run(), strict=True):
        assert torch.equal(first, second)


def test_auto_is_native_on_a_cpu_and_says_why() -> None:
    chosen = choose_backend("auto", CPU)
    assert chosen.backend.name == "native"
    assert "CPU" in chosen.why


@pytest.fixture
def _forget_problems() -> Any:
    choice._problem.cache_clear()
    yield
    choice._problem.cache_clear()


@pytest.mark.usefixtures("_forget_problems")
@pytest.mark.parametrize(
    ("spconv", "triton_there", "chosen"),
    [(True, True, "spconv"), (False, True, "triton"), (False, False, "native")],
)
def test_auto_on_a_gpu_takes_what_is_installed(
    spconv: bool, triton_there: bool, chosen: str
) -> None:
    there = {"spconv": spconv, "spconv_triton": triton_there}
    with (
        mock.patch.object(choice, "find_spec", lambda name: object() if there[name] else None),
        mock.patch.object(choice, "spconv_builds", return_value=(("spconv-cu118", "2.3.8"),)),
        mock.patch.object(choice, "spconv_library"),
        mock.patch.object(choice, "triton_library"),
    ):
        found = choose_backend("auto", torch.device("cuda"))
    assert found.backend.name == chosen
    if not spconv:
        assert "spconv is not installed" in found.why


@pytest.mark.usefixtures("_forget_problems")
def test_backends_that_cannot_work_are_refused_with_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"unknown backend 'spconw'.*did you mean 'spconv'"):
        choose_backend("spconw", CPU)
    with pytest.raises(ConfigError, match=r"'triton' on cpu.*use native"):
        choose_backend("triton", CPU)
    with mock.patch.object(choice, "find_spec", return_value=None):
        with pytest.raises(ConfigError, match=r"pip install 'spconv-cu118>=2\.3\.8'"):
            choose_backend("spconv", CPU)
        with pytest.raises(ConfigError, match=r"pip install 'pass2d\[triton\]'"):
            choose_backend("triton", torch.device("cuda"))
    with pytest.raises(ConfigError, match="unknown backend"):
        build_network("minkowskinet", {}, grid=GRID, n_classes=5, backend="cuda")


def test_spconv_that_would_crash_is_not_imported() -> None:
    assert "crashes beside NumPy 2.1.0" in spconv_problem((("spconv-cu118", "2.3.6"),), "2.1.0")
    assert spconv_problem((("spconv-cu118", "2.3.6"),), "1.26.4") == ""
    assert spconv_problem((("spconv-cu126", "2.3.8"),), "2.1.0") == ""


class FakeGemm:
    """What triton needs of its library: by the table's contract, in torch, parents shuffled."""

    MaskImplicitGemm = "gemm"
    SPCONV_ALLOW_TF32 = False

    def get_indice_pairs_implicit_gemm(
        self, coords: Tensor, batch_size: int, shape: list[int], algo: str, **how: Any
    ) -> tuple[Any, ...]:
        assert algo == "gemm"
        assert all(size % 2 == 0 for size in shape)
        size = how["ksize"][0]
        rows = {tuple(row): i for i, row in enumerate(coords.tolist())}
        if how["subm"]:
            outputs, reach, step = list(rows), (-1, 0, 1), 1
        else:
            outputs, reach, step = (
                list({(b, x // 2, y // 2, z // 2) for b, x, y, z in rows}),
                (0, 1),
                2,
            )
            outputs = [outputs[i] for i in torch.randperm(len(outputs)).tolist()]
        ahead = torch.full((size**3, len(outputs)), -1)
        back = torch.full((size**3, len(rows)), -1)
        for o, (b, *cell) in enumerate(outputs):
            for k, shift in enumerate(np.ndindex(size, size, size)):
                source = (b, *(c * step + reach[s] for c, s in zip(cell, shift, strict=True)))
                if source in rows:
                    ahead[k, o] = rows[source]
                    back[k, rows[source]] = o
        coarse = torch.tensor(outputs, dtype=torch.int32)
        return coarse, None, ahead, back, [], [], [], [], []

    def implicit_gemm(
        self, features: Tensor, weight: Tensor, ahead: Tensor, back: Tensor, *rest: Any
    ) -> Tensor:
        n_out = rest[4]
        kernel = weight.flatten(1, 3).unbind(1)
        total = features.new_zeros((n_out, len(weight)))
        for k, rows in enumerate(ahead):
            known = rows >= 0
            total = total.index_add(0, known.nonzero()[:, 0], features[rows[known]] @ kernel[k].t())
        return total


def test_triton_asks_its_library_for_tables_by_the_contract(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = FakeGemm()
    monkeypatch.setattr(triton, "library", lambda: GemmLibrary(fake, fake, fake, fake))
    monkeypatch.setattr(torch.cuda, "device", lambda _device: mock.MagicMock())
    coords = some_voxels(3, "xyz")
    volume = Volume(extent=EXTENT, batch_size=2)
    ours, theirs = native.Native(), triton.Triton()
    weight, kernel = torch.randn(4, 3, 3, 3, 3), torch.randn(4, 2, 2, 2, 3)
    features = torch.randn(len(coords), 3)
    torch.testing.assert_close(
        theirs.neighbours(coords, volume).convolve(features, weight),
        ours.neighbours(coords, volume).convolve(features, weight),
    )
    assert fake.SPCONV_ALLOW_TF32 is False
    with tf32_products(True):
        theirs.neighbours(coords, volume).convolve(features, weight)
        assert torch.backends.cudnn.allow_tf32
    assert fake.SPCONV_ALLOW_TF32 is True
    assert not torch.backends.cuda.matmul.allow_tf32
    own, other = ours.halve(coords, volume), theirs.halve(coords, volume)
    row_of = {tuple(row): i for i, row in enumerate(own.coords.tolist())}
    to_own = torch.tensor([row_of[tuple(row)] for row in other.coords.tolist()])
    coarse = own.down.convolve(features, kernel)
    torch.testing.assert_close(other.down.convolve(features, kernel), coarse[to_own])
    wide = torch.randn(5, 2, 2, 2, 4)
    torch.testing.assert_close(
        other.up.convolve(coarse[to_own], wide), own.up.convolve(coarse, wide)
    )


def test_everything_but_spconv_works_where_spconv_is_missing() -> None:
    """In this process no module of spconv may be asked for."""
    with without(SPCONV):
        points = torch.randn(500, 4) * torch.tensor([3, 3, 0.5, 0.1])
        for kind, settings in (
            ("baseline", {"hidden": 8}),
            ("minkowskinet", {"width_factor": 0.25}),
            ("spvcnn", {"width_factor": 0.25}),
        ):
            network = build_network(kind, settings, grid=GRID, n_classes=5)
            batch = PointBatch(points=points, offsets=torch.tensor([0, 500]))
            network(network.prepare(batch)).row_logits.square().mean().backward()


def test_on_a_gpu_spconv_describes_kernels_of_floats_alone() -> None:
    kinds = ("tv::half_t", "float", "int8_t", "tv::half_t")
    made = [SimpleNamespace(dtype_a=kind) for kind in kinds]
    assert [one.dtype_a for one in of_floats(made)] == ["tv::half_t", "float", "tv::half_t"]
