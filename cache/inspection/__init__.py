"""What a cache holds, and how fast it reads: `pass2d inspect`, `pass2d cache bench`."""
