"""What a cache contains, and how fast it can be read: `pass2d inspect`, `pass2d cache bench`."""
