"""`pass2d export`: networks as files for other runtimes."""
