"""Weights of one model as the start of another."""
