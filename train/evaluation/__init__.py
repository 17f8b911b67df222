"""Evaluation: every labelled raw point of a split, counted once."""
