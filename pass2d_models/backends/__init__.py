"""Sparse convolutions: one interface, and the libraries that can stand behind it."""
