"""Eight ways in which weather, other sensors and faults spoil a lidar scan; arrays in, arrays out."""
