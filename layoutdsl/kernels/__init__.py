"""Kernels, one folder per op: ``contract.py`` says what its arguments must be, where, and who says so; ``reference.py`` computes it on a CPU.

Contracts are read by the compiler, references by the runtime. No torch but in ``reference.py``, ``numerics.py`` and ``grouped.py``.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path

from layoutdsl.kernels.base import ANY, LIST, Contract, LimitRow, Row


class _Contracts(Mapping[str, Contract]):
    """By op. A folder holds those of one name, whatever the namespace, and is imported when one of them is asked for: most specs call few kernels of many."""

    def __getitem__(self, op: str) -> Contract:
        name = op.partition("::")[2]
        if name not in _folders():
            raise KeyError(op)
        return _folder(name)[op]

    def __iter__(self) -> Iterator[str]:
        return (op for name in _folders() for op in _folder(name))

    def __len__(self) -> int:
        return sum(1 for _ in self)


@cache
def _folders() -> tuple[str, ...]:
    return tuple(sorted(path.parent.name for path in Path(__file__).parent.glob("*/contract.py")))


@cache
def _folder(name: str) -> dict[str, Contract]:
    module = import_module(f"layoutdsl.kernels.{name}.contract")
    return {contract.op: contract for contract in vars(module).values() if isinstance(contract, Contract)}


CONTRACTS: Mapping[str, Contract] = _Contracts()

__all__ = ["ANY", "CONTRACTS", "LIST", "Contract", "LimitRow", "Row"]
