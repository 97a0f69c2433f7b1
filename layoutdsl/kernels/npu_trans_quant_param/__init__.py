"""The kernel ``npu::npu_trans_quant_param``."""
