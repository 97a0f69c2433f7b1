"""The kernel ``npu::npu_matmul_compress_dequant``."""
