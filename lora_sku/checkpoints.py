"""Checkpoints of stage 1: enough to go on bitwise as if never stopped, in safetensors and JSON.

A checkpoint holds harmful weights; the run directory removes them all when stage 2 is done.
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora_sku.devices import random_states, restore_random_states
from lora_sku.errors import TrainingError
from lora_sku.storage import atomic_folder

_FOLDER = re.compile(r"step-(\d{6})$")
_ADAPTER_FILE = "adapter.safetensors"
_OPTIMIZER_FILE = "optimizer.safetensors"
_STATE_FILE = "state.json"
_RANDOM = "random."  # names the generators among the optimizer's tensors, whose names are numbers


class CheckpointStore:
    """The checkpoints of one run, newest last.

    Args:
        folder: Where they are kept.
        identity: What must be the same for a run to go on from them (recipe, data, base).
        keep: How many are kept.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep
        self._identity = dict(identity)

    def bytes_of_a_run(self, parameters: Mapping[str, torch.nn.Parameter]) -> int:
        """Upper bound of its disk use: checkpoints with fp32 Adam states, and two adapters."""
        weights = sum(4 * parameter.numel() for parameter in parameters.values())
        return weights * (3 * (self.keep + 1) + 2)

    def newest(self) -> Path | None:
        """The newest complete checkpoint, or None."""
        found = self._all()
        return found[-1] if found else None

    def save(
        self,
        step: int,
        parameters: Mapping[str, torch.nn.Parameter],
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Write the state after ``step`` optimizer steps; all but the newest few go."""
        tensors, scalars = _flatten_optimizer(optimizer)
        state = {"step": step, "identity": self._identity, "optimizer": scalars}
        with atomic_folder(self.folder / f"step-{step:06d}") as temporary:
            weights = {name: p.detach().cpu().contiguous() for name, p in parameters.items()}
            save_file(weights, temporary / _ADAPTER_FILE)
            random = random_states(_device_of(parameters))
            tensors |= {f"{_RANDOM}{name}": value for name, value in random.items()}
            save_file(tensors, temporary / _OPTIMIZER_FILE)
            (temporary / _STATE_FILE).write_text(json.dumps(state), encoding="utf-8")
        for old in self._all()[: -self.keep]:
            shutil.rmtree(old)

    def restore(
        self,
        parameters: Mapping[str, torch.nn.Parameter],
        optimizer: torch.optim.Optimizer,
    ) -> int:
        """Put the newest checkpoint back; returns its step, 0 if there is none.

        Raises:
            TrainingError: if it belongs to another recipe, data set or base.
        """
        newest = self.newest()
        if newest is None:
            return 0
        state = json.loads((newest / _STATE_FILE).read_text(encoding="utf-8"))
        for key, value in self._identity.items():
            if state["identity"].get(key) != value:
                raise TrainingError(
                    f"this run was started with another {key}, so it cannot be resumed",
                    where=str(newest),
                    remedy="Resume with what it was started with, or start afresh with"
                    " --overwrite.",
                )
        weights = load_file(newest / _ADAPTER_FILE)
        assert weights.keys() == parameters.keys()
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(weights[name])
        tensors = load_file(newest / _OPTIMIZER_FILE)
        random = [key for key in tensors if key.startswith(_RANDOM)]
        restore_random_states(
            {key.removeprefix(_RANDOM): tensors.pop(key) for key in random}, _device_of(parameters)
        )
        optimizer.load_state_dict(_unflatten_optimizer(tensors, state["optimizer"], optimizer))
        return int(state["step"])

    def _all(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if _FOLDER.match(path.name))


def _device_of(parameters: Mapping[str, torch.nn.Parameter]) -> torch.device:
    return next(iter(parameters.values())).device


def _flatten_optimizer(
    optimizer: torch.optim.Optimizer,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimizer's per-parameter state as named tensors, and the rest as JSON values."""
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Any] = {}

    def flatten(prefix: str, entries: Mapping[Any, Any]) -> None:
        for name, value in entries.items():
            key = f"{prefix}{name}"
            if isinstance(value, Mapping):  # bitsandbytes nests its quantized state
                flatten(f"{key}.", value)
            elif isinstance(value, Tensor):
                # Copied, because bitsandbytes shares tables between parameters and safetensors
                # refuses tensors that share memory.
                tensors[key] = value.detach().to("cpu", copy=True).contiguous()
            else:
                scalars[key] = value

    flatten("", optimizer.state_dict()["state"])
    return tensors, scalars


def _unflatten_optimizer(
    tensors: Mapping[str, Tensor], scalars: Mapping[str, Any], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **scalars}.items():
        index, *folders, name = key.split(".")
        entries = state.setdefault(int(index), {})
        for folder in folders:
            entries = entries.setdefault(folder, {})
        entries[name] = value
    return {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
