"""Several scans together: which past scans, where their points lie now, and which of them enter."""
