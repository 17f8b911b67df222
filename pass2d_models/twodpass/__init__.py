"""2DPASS: voxels by scales, the 3D network, the 2D branch."""
