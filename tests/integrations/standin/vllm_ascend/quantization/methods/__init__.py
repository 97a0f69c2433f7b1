from . import schemes  # noqa: F401
from .registry import get_scheme_class  # noqa: F401
