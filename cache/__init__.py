"""The cache on disk: schema, writer, reader, manifest. NumPy and Zarr only."""
