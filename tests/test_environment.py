"""environment.json: what a later reader needs."""

import dataclasses
import json
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from tiny import load

from lora_sku import environment
from lora_sku.environment import (
    OPTIONAL_PACKAGES,
    PACKAGES,
    describe_environment,
    package_version,
)
from lora_sku.model import Base


def test_versions_device_seed_and_revisions_are_there(base: Base, tiny_llama: Path) -> None:
    located = dataclasses.replace(base.located, revision="abc123")
    facts = describe_environment(dataclasses.replace(base, located=located), "f1n9e2", 77)
    assert facts["lora_sku"] == package_version() == version("lora-sku")
    here = [*PACKAGES, *filter(find_spec, OPTIONAL_PACKAGES)]
    assert facts["packages"] == {name: version(name) for name in here}
    assert {"torch", "transformers", "peft", "bitsandbytes"} <= facts["packages"].keys()
    assert (facts["device"], facts["seed"]) == ("cpu", 77)
    assert facts["threads"] == torch.get_num_threads()
    assert facts["compute_dtype"] == "float32"
    assert facts["data_fingerprint"] == "f1n9e2"
    assert facts["base_model"] == {
        "path": str(tiny_llama),
        "revision": "abc123",
        "fingerprint": base.fingerprint,
    }
    assert json.loads(json.dumps(facts)) == facts


def test_the_dtype_is_the_one_computed_in(tiny_llama: Path) -> None:
    facts = describe_environment(load(tiny_llama, compute_dtype="bfloat16"), "", 0)
    assert facts["compute_dtype"] == "bfloat16"


def test_an_optional_package_is_told_where_it_is_installed(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "OPTIONAL_PACKAGES", ("pytest", "no_such_package"))
    told = describe_environment(base, "", 0)["packages"]
    assert told["pytest"] == version("pytest")
    assert "no_such_package" not in told
