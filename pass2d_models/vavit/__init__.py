"""VaViT: thinned points, pillars as tokens, attention over all of them. Plain torch."""
