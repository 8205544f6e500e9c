"""Bugs of other systems, planted here one at a time: the tests must find each. See CONTRIBUTING.md."""
