"""Checkpoints of the published code, read without executing code from them."""
