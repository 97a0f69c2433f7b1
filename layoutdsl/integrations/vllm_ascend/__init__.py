"""The plugin of vLLM-Ascend: guards, checks, replaces or adds the code that prepares quantized weights (docs/vllm_ascend_plugin.md).

vLLM calls :func:`register` in every process, before the command line is read. Nothing is decided then: modules of vllm-ascend are watched for, and
``layoutdsl.integrations.vllm_ascend.plugin`` is imported when the first of them has been.

Invariants: ``register`` imports neither torch, nor vLLM, nor the compiler, and never raises; without the switch no scheme is touched.
"""

from __future__ import annotations


def register() -> None:
    """The entry point in the group ``vllm.general_plugins``. May be called more than once."""
    try:
        from layoutdsl.integrations.vllm_ascend.hook import after_import
        from layoutdsl.integrations.vllm_ascend.names import WATCHED

        after_import(WATCHED, _imported)
    except Exception as error:  # vLLM calls entry points outside of any try: an exception would end the process
        _log_failure(error)


def _imported(name: str) -> None:
    """A module of vllm-ascend is there. Its import does not fail because of a fault of ours; it does if what the user named cannot be done."""
    from layoutdsl.diagnostics import DiagnosticError
    from layoutdsl.integrations.vllm_ascend.plugin import PLUGIN

    try:
        PLUGIN.imported(name)
    except DiagnosticError:
        raise
    except Exception as error:
        _log_failure(error)


def _log_failure(error: Exception) -> None:
    from layoutdsl.integrations.vllm_ascend.log import LOGGER

    LOGGER.warning("layoutdsl is off: %s: %s", type(error).__name__, error)
