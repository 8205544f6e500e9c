"""Simulations on a virtual clock: seeded, deterministic, replayed by their number."""
