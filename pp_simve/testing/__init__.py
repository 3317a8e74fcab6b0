"""Conformance suites for parts of one's own: subclass, give a factory, inherit the checks. Nothing a fit needs."""
