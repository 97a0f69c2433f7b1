"""The kernel ``npu::npu_format_cast``."""
