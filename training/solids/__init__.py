"""View sets of shaded solids: what the nano model learns multi-view from."""

from __future__ import annotations

#: Part of every cache's provenance: raise it whenever a seed would give other pictures.
DOMAIN_VERSION = 2
