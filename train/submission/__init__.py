"""Submissions for the benchmark servers: written, and checked entry by entry."""
