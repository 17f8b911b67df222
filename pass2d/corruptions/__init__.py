"""Eight corruptions of a lidar scan by weather, faults and other sensors, on plain arrays."""
