"""The kernel ``npu::npu_quantize``."""
