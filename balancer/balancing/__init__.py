"""Which backend of a pool gets an attempt; pure."""
