"""Whole clusters on a virtual clock, network and disk: `python -m tests.simulation.cluster --seed N` replays one."""
