"""A ray-cast street world in the layout of SemanticKITTI, see README.md."""
