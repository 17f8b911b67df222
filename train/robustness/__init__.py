"""How a checkpoint holds out against fog, snow, lost beams: published sets, and what we make."""
