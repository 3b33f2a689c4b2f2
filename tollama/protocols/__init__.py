"""Foreign wire formats to and from ours, as pure functions."""
