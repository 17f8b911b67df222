"""The networks and the typed batch they take; torch and spconv, no files, no command line."""
