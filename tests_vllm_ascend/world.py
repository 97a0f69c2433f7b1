"""A rank of an engine, made without starting one: chip, configs and groups as vllm and vllm-ascend find them while a model's layers are made and loaded.

Below ``harness``, which makes layers in a ``World``. The configs are vllm's and vllm-ascend's own (``VllmConfig``, ``AscendConfig``). Stand-ins, and why:

- the model config: vllm reads one from a model's folder; the layers ask it for the few facts in ``MODEL``;
- the groups of ranks (``Group``): real ones want as many processes; a layer that is made and loaded asks them only who it is and of how many;
- the chip: ``get_ascend_device_type`` keeps it in a module-wide variable, set once per process by the build;
- ``setup_moe_comm_method``: prepares the exchange of tokens of a forward, wants all groups, and touches no parameter.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

from tests_vllm_ascend import stand_ins

MODEL: dict[str, Any] = {"model_type": "", "o_groups": 8, "o_lora_rank": 128, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "index_head_dim": 128}


@dataclass(frozen=True)
class World:
    """One rank. tp: size; rank: of tp * dp. ep: experts are spread over all tp * dp ranks instead of being split. eplb: dynamic load balancing, wants ep.

    additional: what else ``--additional-config`` says.
    """

    device: str = "a2"
    dtype: torch.dtype = torch.bfloat16
    tp: int = 1
    dp: int = 1
    rank: int = 0
    ep: bool = False
    weight_nz_mode: int = 1
    fused_mc2: int = 0
    eplb: bool = False
    kv_role: str = "none"
    additional: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def tp_rank(self) -> int:
        return self.rank % self.tp

    @property
    def ep_size(self) -> int:
        return self.tp * self.dp if self.ep else 1

    @property
    def moe_tp(self) -> int:
        """Without expert parallelism vllm splits experts over all ranks."""
        return 1 if self.ep else self.tp * self.dp

    @property
    def moe_tp_rank(self) -> int:
        return 0 if self.ep else self.rank

    def alone(self) -> World:
        """The same with one rank, which balances nothing."""
        return replace(self, tp=1, dp=1, rank=0, ep=False, eplb=False)

    def __str__(self) -> str:
        split = f"tp{self.tp}" + (f"-dp{self.dp}" if self.dp > 1 else "") + ("-ep" if self.ep else "")
        rank = f"-rank{self.rank}" if self.tp * self.dp > 1 else ""
        shown = [f"{name}={getattr(self, name)}" for name in ("weight_nz_mode", "fused_mc2", "eplb", "kv_role") if getattr(self, name) != getattr(World, name)]
        return "-".join([self.device, str(self.dtype).removeprefix("torch."), split + rank, *shown])


class Group:
    """What a layer asks a ``GroupCoordinator``. There is no process group in it: where there is none, schemes do without the name of its communicator."""

    def __init__(self, size: int, rank: int) -> None:
        self.world_size, self.rank_in_group, self.rank, self.local_rank = size, rank, rank, rank
        self.ranks = list(range(size))
        self.first_rank, self.last_rank, self.is_first_rank, self.is_last_rank = 0, size - 1, rank == 0, rank == size - 1


@contextmanager
def entered(world: World, quant_config: Any = None) -> Iterator[Any]:
    """vllm's config of this rank, current while it lasts. quant_config: as the model loader would have put it there."""
    from vllm.config import set_current_vllm_config
    from vllm_ascend import ascend_config, utils

    with ExitStack() as stack:
        stack.enter_context(mock.patch.dict("os.environ", {"DYNAMIC_EPLB": "true"} if world.eplb else {}))
        stack.enter_context(mock.patch.object(utils, "_ascend_device_type", utils.AscendDeviceType[stand_ins.CHIPS[world.device]]))
        for module, groups in _groups(world).items():
            stack.enter_context(mock.patch.multiple(module, **groups))
        for module in _COMMUNICATION:
            stack.enter_context(mock.patch(f"{module}.setup_moe_comm_method", return_value=None))
        config = _vllm_config(world, quant_config)
        stack.enter_context(mock.patch.object(ascend_config, "_ASCEND_CONFIG", None))
        stack.enter_context(mock.patch.object(utils, "_ENABLE_SP", None))
        before = torch.get_default_dtype()
        stack.callback(torch.set_default_dtype, before)
        stack.enter_context(set_current_vllm_config(config))
        ascend_config.init_ascend_config(config)
        torch.set_default_dtype(world.dtype)  # as vllm does while it makes a model
        yield config


_COMMUNICATION = ("vllm_ascend.ops.fused_moe.fused_moe_0_23_0",)


def _groups(world: World) -> dict[str, dict[str, Group]]:
    alone, tp = Group(1, 0), Group(world.tp, world.tp_rank)
    dp, everyone = Group(world.dp, world.rank // world.tp), Group(world.tp * world.dp, world.rank)
    return {
        "vllm.distributed.parallel_state": {"_TP": tp, "_DP": dp, "_EP": everyone, "_PP": alone, "_PCP": alone, "_DCP": alone, "_WORLD": everyone},
        "vllm_ascend.distributed.parallel_state": {"_MC2": everyone},
    }


def _vllm_config(world: World, quant_config: Any) -> Any:
    from vllm.config import KVTransferConfig, ParallelConfig, VllmConfig

    parallel = ParallelConfig(tensor_parallel_size=world.tp, data_parallel_size=world.dp, data_parallel_rank=world.rank // world.tp)
    parallel.enable_expert_parallel = world.ep
    additional = {"weight_nz_mode": world.weight_nz_mode, "enable_fused_mc2": world.fused_mc2, "eplb_config": {"dynamic_eplb": world.eplb}}
    config = VllmConfig(parallel_config=parallel, additional_config={**additional, **copy.deepcopy(dict(world.additional))})
    if world.kv_role != "none":
        config.kv_transfer_config = KVTransferConfig(kv_connector="none", kv_role=f"kv_{world.kv_role}")
    hf = SimpleNamespace(**MODEL)
    config.model_config = SimpleNamespace(
        hf_config=hf, hf_text_config=hf, dtype=world.dtype, enforce_eager=True, is_deepseek_mla=False, quantization="ascend", use_mla=False, is_moe=True
    )
    config.quant_config = quant_config
    return config
