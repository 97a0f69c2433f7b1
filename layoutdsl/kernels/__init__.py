"""Kernel contracts as data, one folder per op: what each argument must be, on which device, and where the fact is from. No torch but in ``reference.py``."""

from importlib import import_module
from pathlib import Path

from layoutdsl.kernels.base import ANY, LIST, Contract, LimitRow, Row

CONTRACTS: dict[str, Contract] = {
    contract.op: contract
    for folder in sorted(path.parent.name for path in Path(__file__).parent.glob("*/contract.py"))
    for contract in vars(import_module(f"layoutdsl.kernels.{folder}.contract")).values()
    if isinstance(contract, Contract)
}
"""By op; a folder holds those of one name, whatever the namespace."""

__all__ = ["ANY", "CONTRACTS", "LIST", "Contract", "LimitRow", "Row"]
