"""A stand-in for vLLM's config: one current config, set by the tests."""

current = None


def get_current_vllm_config_or_none():
    return current
