"""Kernel contracts as data, one folder per op: what each argument must be, on which device, and where the fact is from. No torch but in ``reference.py``."""

from importlib import import_module
from pathlib import Path

from layoutdsl.kernels.base import Contract, LimitRow, Row

CONTRACTS: dict[str, Contract] = {
    contract.op: contract
    for folder in sorted(path.parent.name for path in Path(__file__).parent.glob("*/contract.py"))
    for contract in [import_module(f"layoutdsl.kernels.{folder}.contract").CONTRACT]
}

__all__ = ["CONTRACTS", "Contract", "LimitRow", "Row"]
