"""Settings of every test."""

from __future__ import annotations

import gc

# The suite makes millions of small nodes and types that stay: with Python's own threshold of 700 the collector walks them again and again, a twentieth of
# the suite's time.
gc.set_threshold(50_000, 20, 100)
