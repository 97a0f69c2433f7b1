"""Numeric verification: does what a spec says its tensors mean come out of the kernels that it calls."""
