"""The kernel ``npu::npu_quant_matmul``."""
