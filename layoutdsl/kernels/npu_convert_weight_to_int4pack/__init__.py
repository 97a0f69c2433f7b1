"""The kernel ``npu::npu_convert_weight_to_int4pack``."""
