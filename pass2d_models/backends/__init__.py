"""Sparse convolutions: one interface and its implementations by several libraries."""
