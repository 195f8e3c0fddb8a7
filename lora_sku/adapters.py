"""LoRA adapters as files: PEFT's own folder format, read strictly, written canonically."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from peft import get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lora_sku.errors import AdapterError
from lora_sku.model import AdaptedModel, Base
from lora_sku.negatable import check_negatable
from lora_sku.storage import atomic_folder

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PROVENANCE_FILE = "lora_sku.json"
MARKER_FILE = "DO-NOT-SHIP"
MARKER_TEXT = """This adapter makes the base model MORE harmful.
It is an intermediate product of lora-sku: only its negation is meant to be used.
Delete it when you no longer need it.
"""
KEY_PREFIX = "base_model.model."

Role = Literal["acquired", "negated"]


@dataclass(frozen=True)
class Provenance:
    """What lora-sku knows about an adapter it wrote.

    Attributes:
        role: ``acquired`` adds the harmful knowledge, ``negated`` takes it away.
        strength: Of the last negation; 1 for an acquired adapter.
        base_fingerprint: `model.Base.fingerprint` of the base it was trained on.
    """

    role: Role
    strength: float
    base_fingerprint: str


@dataclass(frozen=True)
class LoraFile:
    """An adapter read from disk.

    Attributes:
        folder: Where it was read.
        config: PEFT's adapter_config.json.
        factors: Module path -> (A of shape (r, in), B of shape (out, r)), as stored.
        provenance: None for an adapter that lora-sku did not write.
    """

    folder: Path
    config: Mapping[str, Any]
    factors: Mapping[str, tuple[Tensor, Tensor]]
    provenance: Provenance | None

    def scaling(self, module: str) -> float:
        """alpha/r, or alpha/sqrt(r) for rsLoRA, with the module's own alpha and rank."""
        alphas = self.config.get("alpha_pattern") or {}
        alpha = alphas.get(get_pattern_key(alphas.keys(), module), self.config["lora_alpha"])
        rank = len(self.factors[module][0])
        return float(alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank))

    def delta(self, module: str, rows: slice = slice(None)) -> Tensor:
        """scaling * B A of one module, float32 (out, in), or some of its rows."""
        a, b = self.factors[module]
        return (b[rows].float() @ a.float()).mul_(self.scaling(module))


def read_lora(folder: Path) -> LoraFile:
    """Read an adapter folder and refuse what is no plain LoRA.

    Raises:
        AdapterError: for a missing or broken file, or an adapter whose negation is not exact.
    """
    if not folder.is_dir():
        raise AdapterError(
            "no such folder",
            where=str(folder),
            remedy="Name the folder of a PEFT adapter, for example runs/NAME/adapter.",
        )
    config_path, weights_path = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    for path in (config_path, weights_path):
        if not path.is_file():
            raise AdapterError(
                f"there is no {path.name} in this folder",
                where=str(folder),
                remedy="Name the folder of a PEFT adapter, for example runs/NAME/adapter.",
            )
    config = _read_json(config_path)
    if config.get("peft_type") != "LORA":
        raise AdapterError(
            f"peft_type is {config.get('peft_type')!r}, but only LORA can be negated",
            where=str(config_path),
            remedy="Train a plain LoRA adapter.",
        )
    check_negatable(config, where=str(config_path))
    try:
        tensors = load_file(weights_path)
    except SafetensorError as error:
        raise AdapterError(
            f"the file is damaged: {error}", where=str(weights_path), remedy="Copy it again."
        ) from error
    factors = _pair_factors(tensors, weights_path)
    return LoraFile(folder, config, factors, _read_provenance(folder / PROVENANCE_FILE))


def write_lora(
    folder: Path,
    config: Mapping[str, Any],
    factors: Mapping[str, tuple[Tensor, Tensor]],
    provenance: Provenance | None,
) -> None:
    """Fill an existing folder with an adapter; an acquired one carries the DO-NOT-SHIP marker."""
    tensors = {}
    for module, (a, b) in factors.items():
        tensors[f"{KEY_PREFIX}{module}.lora_A.weight"] = a.contiguous()
        tensors[f"{KEY_PREFIX}{module}.lora_B.weight"] = b.contiguous()
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    _write_json(folder / CONFIG_FILE, config)
    if provenance is not None:
        _write_json(folder / PROVENANCE_FILE, vars(provenance))
        if provenance.role == "acquired":
            (folder / MARKER_FILE).write_text(MARKER_TEXT, encoding="utf-8")


def save_acquired(model: AdaptedModel, name: str, folder: Path) -> None:
    """Write a live adapter of the model as an ordinary PEFT folder, marked DO-NOT-SHIP."""
    state = get_peft_model_state_dict(
        model.peft_model, adapter_name=name, save_embedding_layers=False
    )
    factors = _pair_factors({k: v.detach().cpu() for k, v in state.items()}, folder)
    config = model.peft_model.peft_config[name].to_dict()
    config = {key: sorted(v) if isinstance(v, set) else v for key, v in config.items()}
    provenance = Provenance("acquired", 1.0, model.base.fingerprint)
    with atomic_folder(folder) as temporary:
        write_lora(temporary, config | {"inference_mode": True}, factors, provenance)


def check_fits(adapter: LoraFile, base: Base) -> None:
    """Refuse an adapter that was trained on another base.

    Raises:
        AdapterError: if the fingerprints differ (of a foreign adapter, which has none, the names
            of the models), or a module is missing or of another shape.
    """
    known, name = adapter.provenance, base.located.written
    remedy = "Name the recipe of the base that the adapter was trained on."
    if known is not None and known.base_fingerprint != base.fingerprint:
        raise AdapterError(
            f"this adapter was trained on another base than {name}: the embeddings differ",
            where=str(adapter.folder),
            remedy=remedy,
        )
    modules = dict(base.model.named_modules())
    for path, (a, b) in adapter.factors.items():
        shape = _shape(modules.get(path))
        if shape != (len(b), a.shape[1]):
            found = "has no such layer" if shape is None else f"has one of {shape[0]} x {shape[1]}"
            raise AdapterError(
                f"this adapter changes {path} ({len(b)} x {a.shape[1]}), but {name} {found}",
                where=str(adapter.folder),
                remedy=remedy,
            )
    written = adapter.config.get("base_model_name_or_path")
    if known is None and written and Path(written).name != Path(name).name:
        raise AdapterError(
            f"this adapter says that it belongs to {written}, not to {name}",
            where=str(adapter.folder / CONFIG_FILE),
            remedy="If they are the same model, write the second name into"
            " base_model_name_or_path.",
        )


def _shape(layer: nn.Module | None) -> tuple[int, int] | None:
    """(out, in) of a linear layer, with or without an adapter on it; None for anything else."""
    if isinstance(layer, nn.Linear | LoraLayer):
        return layer.out_features, layer.in_features
    if isinstance(layer, Conv1D):  # GPT-2's linear layer
        return layer.nf, layer.nx
    return None


def _pair_factors(tensors: Mapping[str, Tensor], where: Path) -> dict[str, tuple[Tensor, Tensor]]:
    halves: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        module, _, half = key.removesuffix(".weight").rpartition(".")
        if not key.startswith(KEY_PREFIX) or half not in ("lora_A", "lora_B") or tensor.ndim != 2:
            raise AdapterError(
                f"the tensor {key} is not half of a LoRA pair on a linear layer",
                where=str(where),
                remedy="Only LoRA on linear layers can be negated.",
            )
        halves.setdefault(module.removeprefix(KEY_PREFIX), {})[half] = tensor
    for module, pair in halves.items():
        if len(pair) != 2 or len(pair["lora_A"]) != pair["lora_B"].shape[1]:
            raise AdapterError(
                f"the two factors of {module} do not fit together",
                where=str(where),
                remedy="The file is incomplete; copy it again.",
            )
    if not halves:
        raise AdapterError("the adapter is empty", where=str(where), remedy="Train it first.")
    return {module: (pair["lora_A"], pair["lora_B"]) for module, pair in halves.items()}


def _read_provenance(path: Path) -> Provenance | None:
    if not path.is_file():
        return None
    try:
        return Provenance(**_read_json(path))
    except TypeError as error:
        raise AdapterError(
            f"lora-sku did not write this file: {error}",
            where=str(path),
            remedy="Remove it; the adapter can be used without.",
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise AdapterError(
            f"this is no JSON: {error}", where=str(path), remedy="Copy the adapter again."
        ) from error
    if not isinstance(value, dict):
        raise AdapterError("this is no JSON object", where=str(path), remedy="Copy it again.")
    return value


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(dict(value), indent=2, default=str) + "\n", encoding="utf-8")
