"""The procedural clip domain of the nano model: simple shapes in simple motions, with captions."""

from __future__ import annotations

#: Part of every cache's provenance: raise it whenever a seed would give another clip or caption.
DOMAIN_VERSION = 1
