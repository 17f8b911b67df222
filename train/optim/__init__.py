"""Losses, optimisers, learning rates and averaged weights."""
