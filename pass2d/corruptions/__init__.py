"""Eight ways in which weather, faults and other sensors spoil a lidar scan, on plain arrays."""
