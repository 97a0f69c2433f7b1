"""The bundled specs: files named ``<scheme>.<layer>.yaml`` in ``specs/``, found without reading them."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from layoutdsl.diagnostics import Diagnostic, DiagnosticError


def folder() -> Path:
    """``layoutdsl/specs`` in an installed wheel, ``specs`` beside the package in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "specs"
    return installed if installed.is_dir() else package.parent / "specs"


def is_path(spec: str) -> bool:
    """Is this a path, not the id of a bundled spec?"""
    return any(mark in spec for mark in "/\\") or spec.endswith((".yaml", ".yml"))


def bundled() -> dict[str, Path]:
    """Every bundled spec, by ``scheme.layer`` in lower case."""
    return {path.stem: path for path in sorted(folder().glob("*.yaml"))}


def find_bundled(name: str, layer: str | None = None) -> Path:
    """The file of a scheme. Raises: DiagnosticError (``spec-unknown``, ``layer-missing``)."""
    known, wanted = bundled(), name.lower()
    if layer is None and wanted in known:
        return known[wanted]
    if layer is not None and f"{wanted}.{layer.lower()}" in known:
        return known[f"{wanted}.{layer.lower()}"]
    layers = [stem.rpartition(".")[2] for stem in known if stem.rpartition(".")[0] == wanted]
    if layers:
        if layer is None and len(layers) == 1:
            return known[f"{wanted}.{layers[0]}"]
        message = f"`{name}` has no spec for layer `{layer}`" if layer else f"`{name}` has a spec for each of several layers"
        raise DiagnosticError(Diagnostic(code="layer-missing", message=message, where=name, helps=(f"layers: {', '.join(layers)}",)))
    close = get_close_matches(wanted, [stem.rpartition(".")[0] for stem in known], 1)
    helps = (f"a spec like it is `{close[0].upper()}`",) if close else (f"bundled: {', '.join(known)}",)
    raise DiagnosticError(Diagnostic(code="spec-unknown", message=f"no bundled spec is called `{name}`", where=name, helps=helps))
