"""``layoutdsl check DIR``: does a checkpoint folder hold what its schemes say, and over how many ranks can it be split."""

from __future__ import annotations

import re
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layoutdsl.cli import output
from layoutdsl.cli.arguments import Parser, Usage, add_config, add_format, close, config_of, config_texts
from layoutdsl.diagnostics import Diagnostic

if TYPE_CHECKING:
    from layoutdsl.checkpoint.fit import Fit
    from layoutdsl.checkpoint.model import Folder, Layer
    from layoutdsl.checkpoint.plans import Plans
    from layoutdsl.checkpoint.topology import Topology

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
TOPOLOGY = ("tensor_parallel_size", "data_parallel_size", "enable_expert_parallel", "expert_placement", "redundant_experts")
MOST_RANKS = 65536
DTYPES = ("bfloat16", "float16")


def options(parser: Parser) -> None:
    parser.add_argument("folder", metavar="DIR", help="the folder of a checkpoint")
    parser.add_argument("--consumer", metavar="NAME", help="who loads it (default: vllm-ascend-0.23)")
    parser.add_argument("--device", metavar="NAME", help="a2, a3, a5 or 310p (default: a2)")
    add_config(parser)
    parser.add_argument("--data-parallel-size", metavar="N", help="without expert parallelism, experts are split over these ranks too")
    parser.add_argument("--enable-expert-parallel", action="store_true", help="deal the experts out to the ranks instead of splitting each")
    parser.add_argument("--expert-placement", metavar="linear|round_robin", help="which experts a rank gets; their tensors are the same")
    parser.add_argument("--redundant-experts", metavar="N", help="experts that are held twice")
    parser.add_argument("--layers", metavar="GLOB", help="only layers of such names, as `model.layers.3.*`")
    parser.add_argument("--data", action="store_true", help="read the values as well, once")
    parser.add_argument("--max-memory", metavar="SIZE", default="1GiB", help="for the values (default: 1GiB)")
    parser.add_argument("--notes", action="store_true", help="print notes as well as errors and warnings")
    add_format(parser)


def run(arguments: Namespace) -> int:
    texts, budget = config_texts(arguments), bytes_of(arguments.max_memory)
    consumer, device = named(arguments, texts)
    asked = _asked(arguments, texts)
    from layoutdsl.checkpoint.fit import Fit
    from layoutdsl.checkpoint.folder import read_folder
    from layoutdsl.checkpoint.folding import fold
    from layoutdsl.checkpoint.fused import disagreements
    from layoutdsl.checkpoint.layers import layers_of
    from layoutdsl.checkpoint.plans import Plans

    folder = read_folder(Path(arguments.folder))
    layers, found = layers_of(folder, consumer, device)
    layers = _chosen(layers, arguments.layers)
    plans = Plans(consumer, device, params_dtype_of(folder, texts))
    layers = _configured(layers, texts, plans)
    fit = Fit(plans, _count(folder, "num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts") or None)
    findings = [*folder.findings, *found, *_not_lost(fit.findings(layers), folder), *disagreements(layers, fit)]
    findings += _split(fit, layers, folder, asked)
    if arguments.data:
        from layoutdsl.checkpoint.values import check_values

        held = {tensor.name for layer in layers for parts in layer.stored.values() for tensor in parts.values()}
        others = [] if arguments.layers else [tensor for tensor in folder.tensors.values() if tensor.name not in held]
        findings += check_values(layers, plans, max_memory=budget, progress=output.log, others=others)
    return _report(fold(findings), folder, layers, arguments)


# ---- the command line -------------------------------------------------------------------------------------------------------------------------------------


def named(arguments: Namespace, texts: dict[str, str]) -> tuple[str, str]:
    from layoutdsl.compiler.consumers import CONSUMERS, DEFAULT_CONSUMER, DEVICE_ALIASES, DEVICES

    consumer = arguments.consumer or texts.pop("consumer", DEFAULT_CONSUMER)
    if consumer not in CONSUMERS:
        raise Usage(f"`--consumer {consumer}` is not known; known are {', '.join(CONSUMERS)}")
    named = arguments.device or texts.pop("device", DEVICES[0])
    device = named.lower().removeprefix("ascend")
    device = DEVICE_ALIASES.get(device, device)
    if device not in DEVICES:
        raise Usage(f"`--device {named}` is not known; known are {', '.join(DEVICES)}")
    return consumer, device


def _asked(arguments: Namespace, texts: dict[str, str]) -> Topology | None:
    """The topology of the command line; None if it names none."""
    from layoutdsl.checkpoint.topology import Topology

    tp = texts.pop("tp_size", None)
    if arguments.expert_placement not in (None, "linear", "round_robin"):
        raise Usage(f"`--expert-placement {arguments.expert_placement}` is neither `linear` nor `round_robin`")
    if tp is None and not any(getattr(arguments, name) for name in TOPOLOGY):
        return None
    return Topology(
        tp=_whole("-tp", tp or "1"),
        dp=_whole("--data-parallel-size", arguments.data_parallel_size or "1"),
        expert_parallel=arguments.enable_expert_parallel,
        redundant=_whole("--redundant-experts", arguments.redundant_experts or "0", least=0),
    )


def _whole(option: str, text: str, least: int = 1) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", text) or not least <= int(text) <= MOST_RANKS:
        raise Usage(f"`{option} {text}`: `{text}` is not a whole number from {least} to {MOST_RANKS}")
    return int(text)


def bytes_of(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,12})\s*([KMGT]?)(?:i?B)?", text, re.IGNORECASE)
    if match is None:
        raise Usage(f"`--max-memory {text}` is not a size such as 4GiB")
    return int(match[1]) * UNITS[match[2].upper()]


def _chosen(layers: list[Layer], glob: str | None) -> list[Layer]:
    if glob is None:
        return layers
    chosen = [layer for layer in layers if fnmatchcase(layer.prefix, glob)]
    if not chosen:
        examples = ", ".join(f"`{layer.prefix}`" for layer in layers[:2])
        raise Usage(f"no quantized layer is called `{glob}`" + (f"; there are {examples}" if examples else ""))
    return chosen


def _configured(layers: list[Layer], texts: Mapping[str, str], plans: Plans) -> list[Layer]:
    """``--set`` in place of what the checkpoint says. A name that no scheme of the folder reads is a mistake. Raises: Usage, DiagnosticError."""
    if not texts or not layers:
        return layers
    specs = {(layer.scheme, layer.kind): plans.spec(layer.scheme, layer.kind) for layer in layers}
    names = {name for spec in specs.values() for name in spec.config_names}
    for name in texts:
        if name not in names:
            raise Usage(f"`--set {name}`: no scheme of this folder reads `{name}`{close(name, names)}")
    values = {key: config_of({name: text for name, text in texts.items() if name in spec.config_names}, spec) for key, spec in specs.items()}
    return [replace(layer, config={**layer.config, **values[layer.scheme, layer.kind]}) for layer in layers]


# ---- config.json ------------------------------------------------------------------------------------------------------------------------------------------


def _sections(folder: Folder) -> Iterator[Mapping[str, Any]]:
    """The model, and its text part, which multimodal models keep apart."""
    yield folder.config
    yield from (section for name in ("text_config", "language_config", "llm_config") if isinstance(section := folder.config.get(name), Mapping))


def _count(folder: Folder, *names: str) -> int:
    """A number of ``config.json`` under the first of these names; 0 without one."""
    found = (section.get(name) for section in _sections(folder) for name in names)
    return next((value for value in found if type(value) is int and 0 < value < 2**31), 0)


def params_dtype_of(folder: Folder, texts: dict[str, str]) -> str:
    """What the command line says, else ``config.json``. Raises: Usage."""
    given = texts.pop("params_dtype", "").removeprefix("torch.")
    if given and given not in DTYPES:
        raise Usage(f"`--params-dtype {given}` is neither {' nor '.join(DTYPES)}")
    found = (section.get(name) for section in _sections(folder) for name in ("torch_dtype", "dtype"))
    return given or next((value for value in found if value in DTYPES), DTYPES[0])


# ---- findings ---------------------------------------------------------------------------------------------------------------------------------------------


def _not_lost(findings: Iterable[Diagnostic], folder: Folder) -> Iterator[Diagnostic]:
    """Without the tensors that are missing with their file, which is a finding already."""
    lost = {part for name in folder.lost for part in (name, name.rpartition(".")[0], name.rpartition(".")[0].rpartition(".")[0])}
    yield from (finding for finding in findings if finding.code != "tensor-missing" or not {finding.where, finding.where.rpartition(".")[0]} & lost)


def _split(fit: Fit, layers: list[Layer], folder: Folder, asked: Topology | None) -> Iterator[Diagnostic]:
    from layoutdsl.checkpoint.topology import Splits, Topology

    topology = replace(asked or Topology(), heads=_count(folder, "num_attention_heads"), kv_heads=_count(folder, "num_key_value_heads"))
    splits = Splits(fit)
    found = [] if asked is None else list(splits.findings(layers, topology))
    yield from found
    sizes, left_out = splits.legal(layers, topology)
    if sizes is not None and (asked is None or any(finding.severity == "error" for finding in found)):
        yield _legal(*sizes, topology.dp, left_out)


def _legal(plain: list[int], with_experts: list[int] | None, dp: int, left_out: int) -> Diagnostic:
    layers = "every layer" + (f" but {left_out} with wrong shapes" if left_out else "")
    message = f"{layers} can be split with{f' --data-parallel-size {dp}' if dp > 1 else ''} -tp {_listed(plain)}"
    if with_experts is not None:
        message += f"; with --enable-expert-parallel -tp {_listed(with_experts)}"
    return Diagnostic(code="topology-legal", message=message, severity="note")


def _listed(sizes: list[int]) -> str:
    return ", ".join(map(str, sizes)) or "none of 1 to 32"


def _report(findings: list[Diagnostic], folder: Folder, layers: list[Layer], arguments: Namespace) -> int:
    tables = [finding for finding in findings if finding.code == "topology-legal"]
    others = [finding for finding in findings if finding.code != "topology-legal"]
    shown = [finding for finding in others if arguments.notes or finding.severity != "note"]
    as_text = arguments.format in ("text", "concise")
    output.report(shown if as_text else [*shown, *tables], arguments.format)
    if as_text and tables:
        output.write("\n" * (arguments.format == "text" and bool(shown)) + "".join(f"{finding.message}\n" for finding in tables))
    output.flush()
    output.log(_summary(folder, layers, others, hidden=len(others) - len(shown)))
    return 1 if any(finding.severity == "error" for finding in findings) else 0


def _summary(folder: Folder, layers: list[Layer], findings: list[Diagnostic], hidden: int) -> str:
    schemes = Counter(f"{layer.scheme}.{layer.kind}" for layer in layers)
    found = ", ".join(f"{count} x {scheme}" for scheme, count in schemes.most_common()) or "no quantized layer"
    counts = [_counted(sum(finding.severity == severity for finding in findings), severity) for severity in ("error", "warning", "note")]
    return f"{_counted(len(folder.tensors), 'tensor')}; {found}; {', '.join(counts)}" + (" (shown with --notes)" if hidden else "")


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
