"""Rebuilding what is damaged."""
