"""Evaluation: the confusion matrix over all labelled raw points of a split."""
