"""Where the plugin writes: below vLLM's logger, so that its lines look like those around them.

Apart from ``names``, because a process that has not logged yet would pay for ``logging`` in ``register``.
"""

from __future__ import annotations

import logging

LOGGER = logging.getLogger("vllm.plugins.layoutdsl")
