"""A checkpoint folder: the tensors of the files that loaders read, its JSON, and what is wrong with the files themselves.

Above ``headers``; everything else about a checkpoint (``layers``, ``fit``, ``topology``) starts from its :class:`Folder`.

Invariants: only files of the folder itself are opened, never one that a name inside JSON leads out of it; one mistake makes one finding, however many tensors
it touches; a file that cannot be read hides none of the others.
Source: vLLM 0.23.0, model_loader/weight_utils.py and default_loader.py. With ``model.safetensors.index.json`` the files it names are read, whole; without it
every ``*.safetensors`` of the folder. The index that msModelSlim writes is under another name, which vLLM does not know.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layoutdsl.checkpoint.headers import read_header
from layoutdsl.checkpoint.json_text import read_object, some
from layoutdsl.checkpoint.model import Folder, StoredTensor
from layoutdsl.diagnostics import Diagnostic, DiagnosticError, Severity

INDEX = "model.safetensors.index.json"
WRITERS_INDEX = re.compile(r"quant_model_weight.*\.safetensors\.index\.json")
DESCRIPTION = "quant_model_description.json"
SHARD_OF_SERIES = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")
OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".npz")


def read_folder(path: Path) -> Folder:
    """Everything that the headers and the JSON of a folder say. Files are the findings' ``where``, by name; tensors, where one tensor is to blame.

    Raises: DiagnosticError (``file-missing``, ``file-unreadable``) if there is no such folder.
    """
    names = _names_in(path)
    config, config_faults = _config(path, names)
    description, description_faults = _description(path, names, config)
    index, index_faults = _read_index(path, names)
    files = {name for name in names if name.endswith(".safetensors")}
    if not files and not index.file:
        index_faults.append(_no_weights(path, names))
    findings = [*config_faults, *description_faults, *index_faults]
    shards, shard_faults = _read_shards(path, _read_by_loaders(files, index))
    tensors, twice = _merged(shards, index)
    findings += [*shard_faults, *_about_twice(twice, index)]
    doubled = {file for pair in twice for file in pair}
    reported = {finding.where for finding in findings} | doubled
    lost = {name for name in index.weight_map if name not in tensors}
    if index.exclusive:
        ignored, _ = _read_shards(path, files - shards.keys())
        needed = _needed(ignored, tensors, description or {}, index)
        findings += [*_about_index(tensors, shards, ignored, index, reported), *_about_ignored(ignored, needed, index)]
        lost |= {name for found in needed.values() for name in found}
    elif index.file:
        findings += [*_about_index(tensors, shards, {}, index, reported), *_about_strays(shards, index, reported)]
    else:
        findings += _about_series(shards, doubled)
    return Folder(path, tensors, config, description, tuple(findings), frozenset(lost))


def _names_in(path: Path) -> set[str]:
    """The names of the folder's files, hidden ones left out: loaders look for ``*.safetensors``."""
    try:
        return {name for name in os.listdir(path) if not name.startswith(".")}
    except FileNotFoundError:
        finding = Diagnostic(code="file-missing", message="there is no such folder", where=str(path))
    except NotADirectoryError:
        finding = Diagnostic(code="file-unreadable", message="this is a file, not a folder", where=str(path), helps=("name the folder of the checkpoint",))
    except (OSError, ValueError) as error:
        why = str(error.strerror or error).lower() if isinstance(error, OSError) else "a path has no null character"
        finding = Diagnostic(code="file-unreadable", message=f"this folder cannot be read: {why}", where=str(path))
    raise DiagnosticError(finding)


def _no_weights(path: Path, names: set[str]) -> Diagnostic:
    others = sorted(name for name in names if name.endswith(OTHER_WEIGHTS))
    if others:
        message = "the weights are in a format that this tool does not read"
        helps = ("convert them to safetensors; pickled files may run code when they are read",)
        return Diagnostic(code="weights-not-safetensors", message=message, where=others[0], notes=(f"found {some(others)}",), helps=helps)
    inside = sorted(entry.parent.name for entry in path.glob("*/*.safetensors"))
    notes = (f"there are some in the folder {some(sorted(set(inside)))}; loaders do not look there",) if inside else ()
    return Diagnostic(code="weights-missing", message="the folder holds no `*.safetensors` file", where=str(path), notes=notes)


# --- JSON ---------------------------------------------------------------------------------------------------------------------------------------------------


def _config(path: Path, names: set[str]) -> tuple[dict[str, Any], list[Diagnostic]]:
    if "config.json" not in names:
        helps = ("copy it from the model that was quantized",)
        return {}, [Diagnostic(code="file-missing", message="the folder has no `config.json`, which says what the model is", where="config.json", helps=helps)]
    config, findings = read_object(path / "config.json")
    return config or {}, findings


def _description(path: Path, names: set[str], config: Mapping[str, Any]) -> tuple[dict[str, Any] | None, list[Diagnostic]]:
    """The description of its own file, else the one inside ``config.json``: a ``quantization_config`` without a ``quant_method``, or with ``ascend``."""
    inner = config.get("quantization_config")
    inside = inner if isinstance(inner, dict) and inner.get("quant_method", "ascend") == "ascend" else None
    if DESCRIPTION not in names:
        return inside, _path_faults(path, inside or {}, "config.json") if inside is not None else _other_descriptions(names, config)
    own, findings = read_object(path / DESCRIPTION)
    findings += _path_faults(path, own or {}, DESCRIPTION)
    differ = [key for key, value in (own or {}).items() if key in (inside or {}) and inside[key] != value] if inside else []
    if differ:
        message = f"the description and `quantization_config` of config.json disagree about {some(differ)}"
        notes = ("some consumers read the one, some the other",)
        findings.append(Diagnostic(code="description-twice", message=message, where=DESCRIPTION, notes=notes, helps=("keep one of the two",)))
    return own if own is not None else inside, findings


def _other_descriptions(names: set[str], config: Mapping[str, Any]) -> list[Diagnostic]:
    """Old msModelSlim put the scheme into the name; loaders then take the model for a float one."""
    others = sorted(name for name in names if name.startswith("quant_model_description") and name.endswith(".json"))
    if not others or "quantization_config" in config:
        return []
    message = f"loaders read the description from `{DESCRIPTION}` only"
    return [Diagnostic(code="description-name", message=message, where=others[0], helps=(f"rename it to `{DESCRIPTION}`",))]


def _path_faults(path: Path, description: Mapping[str, Any], where: str) -> list[Diagnostic]:
    """``optional`` of a description names files in sub-folders (``optional/quarot.safetensors``), which some loaders read."""
    found = []
    for name in sorted(set(_texts(description.get("optional")))):
        if not name.endswith(".safetensors"):
            continue
        if _escapes(name):
            found.append(_escape(name, where))
        elif not (path / name).is_file():
            message = f"the description names `{name}`, which is not there"
            found.append(Diagnostic(code="optional-missing", message=message, severity="warning", where=name, notes=(f"named by `optional` of {where}",)))
    return found


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _escapes(name: str) -> bool:
    """Could this name, joined to the folder, be a file elsewhere, on any system? Half a surrogate pair is no file name at all."""
    odd = any(char in name for char in "\\\0") or any("\ud800" <= char <= "\udfff" for char in name)
    return odd or not name or name.startswith("/") or bool(re.match(r"[A-Za-z]:", name)) or ".." in name.split("/")


def _escape(name: str, where: str) -> Diagnostic:
    message = f"the file name `{name}` may lead out of the folder"
    helps = ("names inside JSON are relative, with forward slashes, and without `..`",)
    return Diagnostic(code="name-escapes", message=message, where=where, notes=("the file was not opened",), helps=helps)


# --- the index ----------------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Index:
    """file: its name, "" without one. weight_map: tensor to file. exclusive: loaders read only what it names."""

    file: str = ""
    weight_map: Mapping[str, str] = field(default_factory=dict)
    exclusive: bool = False

    @property
    def files(self) -> set[str]:
        return set(self.weight_map.values())


def _read_index(path: Path, names: set[str]) -> tuple[_Index, list[Diagnostic]]:
    """The index that loaders obey, else the writer's; several of a writer count as one. An index that cannot be read counts as none."""
    if INDEX in names:
        weight_map, findings = _weight_map(path / INDEX, names)
        return (_Index(INDEX, weight_map, True), findings) if weight_map else (_Index(), findings)
    merged: dict[str, str] = {}
    found: list[Diagnostic] = []
    writers = sorted(name for name in names if WRITERS_INDEX.fullmatch(name))
    for name in writers:
        weight_map, findings = _weight_map(path / name, names)
        merged |= weight_map
        found += findings
    return _Index(some(writers).replace("`", ""), merged) if merged else _Index(), found


def _weight_map(path: Path, names: Collection[str]) -> tuple[dict[str, str], list[Diagnostic]]:
    content, findings = read_object(path)
    if content is None:
        return {}, findings
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(file, str) for file in weight_map.values()):
        message = "the index has no `weight_map` that names a file for each tensor"
        helps = ('write `{"weight_map": {TENSOR: FILE, ...}}`, or remove the index: loaders then read every file',)
        return {}, [*findings, Diagnostic(code="index-form", message=message, where=path.name, helps=helps)]
    return weight_map, [*findings, *_file_faults(weight_map, path.name, names)]


def _file_faults(weight_map: Mapping[str, str], where: str, names: Collection[str]) -> list[Diagnostic]:
    found, missing = [], []
    for file in sorted(set(weight_map.values())):
        if _escapes(file):
            found.append(_escape(file, where))
        elif "/" in file or not file.endswith(".safetensors"):
            message = f"the index names `{file}`, which loaders do not read"
            notes = ("they read `*.safetensors` of the folder itself",)
            found.append(Diagnostic(code="index-file-unread", message=message, where=where, notes=notes, helps=("move the file into the folder",)))
        elif file not in names:
            missing.append(file)
    if missing:
        lost = [name for name, file in weight_map.items() if file in missing]
        message = f"the index names {some(missing)}, which {'is' if len(missing) == 1 else 'are'} not there"
        place = missing[0] if len(missing) == 1 else where
        about = (f"in {where}", f"lost: {some(lost)}")
        found.append(Diagnostic(code="index-file-missing", message=message, where=place, notes=about, helps=("fetch or copy what is missing",)))
    return found


# --- shards -------------------------------------------------------------------------------------------------------------------------------------------------


Shards = Mapping[str, Mapping[str, StoredTensor]]
"""File to its tensors by name."""


def _read_by_loaders(files: Collection[str], index: _Index) -> set[str]:
    """Beside other files, ``consolidated*`` hold the same model under Mistral's names, for Mistral's own loader."""
    if index.exclusive:
        return index.files & set(files)
    usual = {name for name in files if not name.startswith("consolidated")}
    return usual or set(files)


def _read_shards(path: Path, files: Collection[str]) -> tuple[Shards, list[Diagnostic]]:
    shards, found = {}, []
    for name in sorted(files):
        tensors, findings = read_header(path / name)
        shards[name] = {tensor.name: tensor for tensor in tensors}
        found += findings
    return shards, found


def _merged(shards: Shards, index: _Index) -> tuple[dict[str, StoredTensor], dict[tuple[str, str], list[str]]]:
    """The tensors by name, and which pairs of files hold the same ones. The file that the index names wins."""
    tensors: dict[str, StoredTensor] = {}
    twice: dict[tuple[str, str], list[str]] = {}
    for file, held in shards.items():
        for name, tensor in held.items():
            first = tensors.setdefault(name, tensor)
            if first is tensor:
                continue
            twice.setdefault((first.file.name, file), []).append(name)
            if index.weight_map.get(name) == file:
                tensors[name] = tensor
    return tensors, twice


def _about_twice(twice: Mapping[tuple[str, str], list[str]], index: _Index) -> Iterator[Diagnostic]:
    for files, names in twice.items():
        strays = [file for file in files if file not in index.files] if index.file else []
        notes = [f"the files are {files[0]} and {files[1]}; loaders read both, and the one read later counts"]
        notes += [f"{index.file} does not name {some(strays)}"] if strays else []
        message = "two files hold this tensor" if len(names) == 1 else f"two files hold the same {len(names)} tensors: {some(names)}"
        helps = (f"remove {strays[0] if strays else 'one of the two'}",)
        yield Diagnostic(code="tensor-twice", message=message, where=names[0] if len(names) == 1 else (strays or files)[-1], notes=tuple(notes), helps=helps)


def _about_index(tensors: Mapping[str, StoredTensor], shards: Shards, ignored: Shards, index: _Index, reported: Collection[str]) -> Iterator[Diagnostic]:
    """Where the index and the files disagree. Files that are not there, or that have a finding, are no evidence."""
    sound = {name: file for name, file in index.weight_map.items() if file in shards and file not in reported and name not in reported}
    missing = [name for name in sound if name not in tensors]
    elsewhere = [name for name, file in sound.items() if name in tensors and name not in shards[file]]
    unnamed = [name for name, tensor in tensors.items() if name not in index.weight_map and tensor.file.name in index.files]
    if missing:
        hidden = sorted({file for file, held in ignored.items() for name in missing if name in held})
        notes = (
            f"{index.file} says {some(sorted({sound[name] for name in missing}))}",
            *(f"{file}, which the index does not name, has some" for file in hidden),
        )
        yield _of_tensors("index-tensor-missing", missing, "no file that loaders read has", index.file, notes=notes)
    if elsewhere:
        notes = (f"`{elsewhere[0]}` is in {tensors[elsewhere[0]].file.name}; {index.file} says {sound[elsewhere[0]]}",)
        yield _of_tensors(
            "index-tensor-elsewhere", elsewhere, "the index names the wrong file for", index.file, "warning", (*notes, "vLLM finds it; others do not")
        )
    if unnamed:
        notes = (f"in {tensors[unnamed[0]].file.name}", "vLLM reads listed files whole; others look for what the index names")
        yield _of_tensors("index-tensor-unlisted", unnamed, "the index does not name", index.file, "warning", notes)


def _of_tensors(code: str, names: list[str], what: str, index: str, severity: Severity = "error", notes: tuple[str, ...] = ()) -> Diagnostic:
    message = f"{what} this tensor" if len(names) == 1 else f"{what} {len(names)} tensors: {some(names)}"
    helps = ("write the index again from the headers of the files",)
    return Diagnostic(code=code, message=message, severity=severity, where=names[0] if len(names) == 1 else index, notes=notes, helps=helps)


def _about_strays(files: Collection[str], index: _Index, reported: Collection[str]) -> Iterator[Diagnostic]:
    """Files that loaders read although the writer's index does not name them."""
    for file in sorted(set(files) - index.files - set(reported)):
        notes = (f"vLLM reads every `*.safetensors` of a folder without `{INDEX}`",)
        yield Diagnostic(
            code="shard-stray",
            message=f"{index.file} does not name this file, and loaders read it",
            where=file,
            notes=notes,
            helps=("move it to a sub-folder",),
        )


def _about_series(files: Collection[str], doubled: Collection[str]) -> Iterator[Diagnostic]:
    """Without an index only the names `NAME-00001-of-00003.safetensors` tell that a shard is missing, or one too many. doubled: told of already."""
    series: dict[tuple[str, int], set[int]] = {}
    for file in files:
        match = SHARD_OF_SERIES.fullmatch(file)
        if match and file not in doubled:
            series.setdefault((match[1], int(match[3])), set()).add(int(match[2]))
    for (stem, total), numbers in sorted(series.items()):
        present = set(files)
        shards = [f"{stem}-{number:05}-of-{total:05}.safetensors" for number in range(1, total + 1)]
        missing = [shard for shard in shards if shard not in present]
        if missing:
            message = f"the folder lacks {len(missing)} of {total} shards: {some(missing)}"
            yield Diagnostic(code="shard-missing", message=message, where=missing[0], helps=("fetch or copy what is missing",))
        for number in sorted(numbers - set(range(1, total + 1))):
            file = f"{stem}-{number:05}-of-{total:05}.safetensors"
            yield Diagnostic(code="shard-stray", message=f"by their names there are {total} shards, and this is another", where=file)
    for file in sorted(set(files) - set(doubled)) if series else ():
        if not SHARD_OF_SERIES.fullmatch(file):
            notes = ("there is no index, so that loaders read it with them",)
            yield Diagnostic(
                code="shard-stray", message="this file is not one of the shards, by their names", where=file, notes=notes, helps=("move it to a sub-folder",)
            )


def _about_ignored(ignored: Shards, needed: Mapping[str, list[str]], index: _Index) -> Iterator[Diagnostic]:
    for file, held in ignored.items():
        if any(name in index.weight_map for name in needed[file]):
            continue  # told of these tensors already
        if needed[file]:
            message = f"only this file holds {len(needed[file])} tensors of the model, and loaders do not read it"
            notes = (f"{index.file} does not name it", f"among them {some(needed[file])}")
            yield Diagnostic(code="shard-unlisted", message=message, where=file, notes=notes, helps=("write the index again from the headers of the files",))
        elif not file.startswith("consolidated"):
            notes = (f"{index.file} does not name it", f"it holds {len(held)} tensors")
            yield Diagnostic(code="shard-unlisted", message="loaders do not read this file", severity="warning", where=file, notes=notes)


def _needed(ignored: Shards, tensors: Mapping[str, StoredTensor], description: Mapping[str, Any], index: _Index) -> dict[str, list[str]]:
    """Of the tensors of each ignored file, those that are nowhere else and that something asks for: the index, the description, or the like of them in another
    layer."""
    known = {_numberless(name) for name in tensors} if ignored else set()
    return {
        file: [name for name in held if name not in tensors and (name in index.weight_map or name in description or _numberless(name) in known)]
        for file, held in ignored.items()
    }


def _numberless(name: str) -> str:
    return re.sub(r"\d+", "0", name)
