"""Checkpoints: one file with a card; inputs' statistics."""
