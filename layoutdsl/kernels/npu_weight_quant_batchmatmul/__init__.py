"""npu_weight_quant_batchmatmul: 16-bit activations times int4 or int8 weights."""
