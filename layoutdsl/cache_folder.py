"""Where results that can be made again are kept: validation results and the parser's tables. Deleting the folder loses nothing."""

from __future__ import annotations

import os
from pathlib import Path


def folder() -> Path:
    """``$LAYOUTDSL_CACHE``, else ``layoutdsl`` in the user's cache folder; it need not exist."""
    chosen = os.environ.get("LAYOUTDSL_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "layoutdsl"


def private_folder() -> Path | None:
    """The folder, made if need be, if nobody but its owner, who is us, can write to it; else None. What is read from it may then be trusted like our own
    files."""
    place = folder()
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        state = place.stat()
    except OSError:
        return None
    if not hasattr(os, "getuid"):
        return None
    return place if state.st_uid == os.getuid() and not state.st_mode & 0o022 else None
