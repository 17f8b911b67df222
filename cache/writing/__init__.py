"""From arrays to published shards: encoding, the Zarr group, the commit."""
