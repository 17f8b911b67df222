"""A network run over scans: votes, logits, scores, and `Segmenter`."""
