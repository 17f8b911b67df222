"""Several scans together: which past scans, their poses, and which of their points enter."""
