"""Checkpoints of the published code, read without running them."""
