"""The primitive ops, one file each: parameters, type rule, lowering, meaning, examples. Neither torch nor numpy.

Adding an op is adding a file here: every module of this package is imported, and its op registers itself.
"""

from importlib import import_module
from pkgutil import iter_modules

from layoutdsl.ops.base import OPS, Arguments, Example, Op, Parameter, Place, Rejected

for _module in sorted(module.name for module in iter_modules(__path__)):
    import_module(f"layoutdsl.ops.{_module}")

__all__ = ["OPS", "Arguments", "Example", "Op", "Parameter", "Place", "Rejected"]
