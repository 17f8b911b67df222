"""From the cache to a batch: reading, chance, augmentation, mixes, collation."""
