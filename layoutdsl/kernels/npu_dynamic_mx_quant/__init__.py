"""The kernel ``npu::npu_dynamic_mx_quant``."""
