"""Which route a request takes; pure."""
