"""Verifying, describing and cleaning a prepared data set."""
