"""What the plugin knows of vllm-ascend by name: its modules, and the classes that its registries do not show.

Read by ``register``, so nothing is imported here.
Source: vllm-ascend 0.23.0.post1, quantization/methods, _310p/quantization/methods, quantization/method_adapters.py, ascend_config.py, modelslim_config.py.
"""

from __future__ import annotations

METHODS = "vllm_ascend.quantization.methods"
METHODS_310P = "vllm_ascend._310p.quantization.methods"
ADAPTERS = "vllm_ascend.quantization.method_adapters"
CONFIG = "vllm_ascend.ascend_config"
WATCHED = (CONFIG, METHODS, METHODS_310P, ADAPTERS)

REGISTRIES = {METHODS: "", METHODS_310P: "310p"}
"""The packages with a ``registry`` module, and the device whose schemes are in there; "" for all others."""
DIRECT = {("C8", "attention"): (f"{METHODS}.kv_c8", "AscendC8KVCacheAttentionMethod")}
"""Schemes that no registry has: a config constructs them itself."""
