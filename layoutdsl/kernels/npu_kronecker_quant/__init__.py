"""The kernel ``npu::npu_kronecker_quant``."""
