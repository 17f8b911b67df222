"""The GPU loop: stream, augment, batch, loss, metric, checkpoint."""
