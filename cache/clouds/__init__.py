"""What a cloud looks like: its ground, spread, unit and volume; whether it is like another."""
