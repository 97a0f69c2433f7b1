"""The kernel ``npu::npu_quant_grouped_matmul_dequant``."""
