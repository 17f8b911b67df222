"""A run: its parts, one step, validation, the folder and the log, stopping and resuming."""
