"""Deterministic evaluation of what a model of the shapes domain generates."""
