"""`pass2d describe`: looks at a folder and proposes a description of it."""
