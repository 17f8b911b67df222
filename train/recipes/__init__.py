"""Recipes: the settings of a run, their files and keys."""
