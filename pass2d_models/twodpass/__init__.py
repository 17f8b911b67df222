"""2DPASS: voxels at several scales, the 3D network, the 2D branch."""
