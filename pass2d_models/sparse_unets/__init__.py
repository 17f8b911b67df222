"""Sparse U-Nets on shifted voxels: MinkowskiNet and SPVCNN."""
