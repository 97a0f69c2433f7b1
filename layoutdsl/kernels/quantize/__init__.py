"""The kernel ``vllm::quantize``."""
