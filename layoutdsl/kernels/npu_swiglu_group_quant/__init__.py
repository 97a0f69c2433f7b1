"""The kernels ``npu_swiglu_group_quant`` of torch_npu and of vllm-ascend."""
