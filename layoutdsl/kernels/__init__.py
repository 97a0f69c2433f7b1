"""Kernel contracts as data, one folder per op: what each argument must be, on which device, and where the fact is from. No torch in ``contract.py``."""

from importlib import import_module
from pkgutil import iter_modules

from layoutdsl.kernels.base import Contract, LimitRow, Row

CONTRACTS: dict[str, Contract] = {
    contract.op: contract
    for module in sorted(found.name for found in iter_modules(__path__) if found.ispkg)
    for contract in [import_module(f"layoutdsl.kernels.{module}.contract").CONTRACT]
}

__all__ = ["CONTRACTS", "Contract", "LimitRow", "Row"]
