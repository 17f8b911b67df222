"""Prepared data sets at any fsspec URL."""
