"""balancer: a Layer-7 (HTTP) load balancer."""

__version__ = "0.1.0"
