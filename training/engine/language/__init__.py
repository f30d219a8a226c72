"""Asking a language model, behind an address or in a local folder, for strict JSON answers."""
