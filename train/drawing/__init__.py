"""Pictures of labelled scans and of confusion matrices."""
