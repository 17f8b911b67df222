"""From the cache to a batch: reading, random draws, augmentation, mixes, collation."""
