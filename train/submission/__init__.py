"""Submissions for the benchmark servers: written, checked entry by entry, checked by anybody."""
