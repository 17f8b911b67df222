"""Offline: raw data set in, cache out. Runs the stages over shards of scans; imports no torch."""
