"""Several processes: their group, starting them, their heartbeat, shared norms."""
