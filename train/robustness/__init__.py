"""Robustness of a checkpoint to fog, snow, missing beams: published sets, and our own."""
