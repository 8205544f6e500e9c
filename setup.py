"""The one thing that pyproject.toml cannot say everywhere: the compiled form of balancer/http1/plain_heads.py.

Optional: where it cannot be built (no compiler, no Python headers) the install goes on, and heads are read in Python.
"""

from setuptools import Extension, setup

setup(ext_modules=[Extension("balancer.http1._plain_heads", ["balancer/http1/_plain_heads.c"], optional=True)])
