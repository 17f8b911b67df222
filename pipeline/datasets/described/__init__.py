"""Data sets that a person describes: any folder, by a TOML file."""
