"""Points of any sensor's files as named columns: one file per format, `registry.py` knows them."""
