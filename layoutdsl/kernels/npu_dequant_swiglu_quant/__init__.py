"""The kernel ``_C_ascend::npu_dequant_swiglu_quant``."""
