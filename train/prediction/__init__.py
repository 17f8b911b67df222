"""`pass2d predict`: labels for any point files."""
