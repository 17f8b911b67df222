"""Verifying, mending and cleaning a prepared data set."""
