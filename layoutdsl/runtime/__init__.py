"""Plan to tensors: the only package that imports torch."""
