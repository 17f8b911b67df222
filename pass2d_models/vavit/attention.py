"""Attention blocks over the pillars of each sample, with rotary position embedding."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

_BASE = 10_000.0
"""Base of the rotary frequencies."""


def rotations(xy: Tensor, *, head_width: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary position embedding of a head's channels.

    Args:
        xy: (P, 2) metres.
        head_width: Channels of a head, a multiple of 4: its first half is rotated by x, its second
            by y, channel i of a half paired with channel i + a quarter of the head.

    Returns:
        Two (P, 1, head_width) tensors.
    """
    half = head_width // 2
    steps = torch.arange(0, half, 2, device=xy.device, dtype=torch.float32)
    angles = xy[:, :, None] * (1.0 / _BASE ** (steps / half)).to(xy.dtype)
    doubled = torch.cat([angles, angles], 2).flatten(1)[:, None]
    return doubled.cos(), doubled.sin()


def turned(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate (P, H, head_width) queries or keys; angles stay exact in half precision."""
    x1, x2, y1, y2 = heads.chunk(4, dim=2)
    return (heads * cos + torch.cat([-x2, x1, -y2, y1], 2) * sin).to(heads.dtype)


class Attention(nn.Module):
    """Every token attends to all tokens of the same sample."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)

    def forward(self, tokens: Tensor, lengths: Sequence[int], cos: Tensor, sin: Tensor) -> Tensor:
        """(T, width) to (T, width); ``lengths``: tokens of each sample, end to end."""
        n_tokens, width = tokens.shape
        q, k, v = self.qkv(tokens).view(n_tokens, 3, self.heads, width // self.heads).unbind(1)
        q, k = turned(q, cos, sin), turned(k, cos, sin)
        # A sample at a time: its own length, so no padding and no mask, and any kernel will do.
        sizes = [n for n in lengths if n]
        parts = zip(*(x.transpose(0, 1).split(sizes, 1) for x in (q, k, v)), strict=True)
        seen = [
            functional.scaled_dot_product_attention(*(x[None] for x in qkv))[0] for qkv in parts
        ]
        return self.proj(torch.cat(seen, 1).transpose(0, 1).reshape(n_tokens, width))


class Perceptron(nn.Module):
    """Two layers with a GELU in between, no biases."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.l1 = nn.Linear(width, hidden, bias=False)
        self.l2 = nn.Linear(hidden, width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(T, width) to (T, width)."""
        return self.l2(functional.gelu(self.l1(tokens)))


class Block(nn.Module):
    """x += g1 * attention(norm(x)); x += g2 * perceptron(norm(x))."""

    FIRST_GAMMA = 1e-5

    def __init__(self, width: int, *, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-5)
        self.attention = Attention(width, heads)
        self.gamma1 = nn.Parameter(torch.full((width,), self.FIRST_GAMMA))
        self.norm2 = nn.LayerNorm(width, eps=1e-5)
        self.perceptron = Perceptron(width, hidden)
        self.gamma2 = nn.Parameter(torch.full((width,), self.FIRST_GAMMA))

    def forward(
        self,
        tokens: Tensor,
        lengths: Sequence[int],
        cos: Tensor,
        sin: Tensor,
        *,
        kept: tuple[Sequence[bool], Sequence[bool]] | None,
        scale: float,
    ) -> Tensor:
        """Compute a block.

        Args:
            tokens: (T, width), samples end to end.
            lengths: Tokens of each sample.
            cos: Of `rotations`.
            sin: Of `rotations`.
            kept: Samples that compute attention, and those that compute the perceptron; None: all.
            scale: What the results of kept samples are multiplied by.
        """

        def attend(x: Tensor, sizes: Sequence[int], c: Tensor, s: Tensor) -> Tensor:
            return self.gamma1 * self.attention(self.norm1(x), sizes, c, s)

        def think(x: Tensor, _sizes: Sequence[int], _c: Tensor, _s: Tensor) -> Tensor:
            return self.gamma2 * self.perceptron(self.norm2(x))

        for half, residual in enumerate((attend, think)):
            chosen = None if kept is None else kept[half]
            if chosen is None or all(chosen):
                tokens = tokens + scale * residual(tokens, lengths, cos, sin)
            elif any(chosen):
                tokens = _of_some(residual, tokens, lengths, cos, sin, chosen=chosen, scale=scale)
        return tokens


def _of_some(
    residual: Callable[[Tensor, Sequence[int], Tensor, Tensor], Tensor],
    tokens: Tensor,
    lengths: Sequence[int],
    cos: Tensor,
    sin: Tensor,
    *,
    chosen: Sequence[bool],
    scale: float,
) -> Tensor:
    """Add the residual of the chosen samples; the others are skipped."""

    def parts(x: Tensor) -> list[Tensor]:
        return list(x.split(list(lengths)))

    def together(x: Tensor) -> Tensor:
        return torch.cat([p for p, is_kept in zip(parts(x), chosen, strict=True) if is_kept])

    sizes = [n for n, is_kept in zip(lengths, chosen, strict=True) if is_kept]
    added = residual(together(tokens), sizes, together(cos), together(sin)).split(sizes)
    more = iter(added)
    return torch.cat(
        [
            part + scale * next(more) if is_kept else part
            for part, is_kept in zip(parts(tokens), chosen, strict=True)
        ]
    )
