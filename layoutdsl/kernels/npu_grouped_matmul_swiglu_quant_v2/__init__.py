"""The kernel ``npu::npu_grouped_matmul_swiglu_quant_v2``."""
