"""Measures the balancer beside nginx and HAProxy on one machine. Start it with `python -m loadtest`."""
