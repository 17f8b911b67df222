"""`pass2d doctor`: whether pass2d works on this machine, and how to fix what does not."""
