"""Sockets, TLS, framed streams and timers, without policy."""
