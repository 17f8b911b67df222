"""One file per stage; each is a pure function from arrays to arrays."""
