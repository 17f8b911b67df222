"""The networks and the typed batch they take; torch, no files, no command line."""
