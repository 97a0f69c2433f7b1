class AscendConfig:
    weight_nz_mode = 1
    enable_fused_mc2 = 0

    def __init__(self, vllm_config):
        self.vllm_config = vllm_config


def get_ascend_config():
    return AscendConfig
