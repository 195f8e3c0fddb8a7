"""Stage 2: the negated adapter is exactly minus the acquired one."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from tiny import adapt, load, teach
from torch import Tensor
from transformers import AutoModelForCausalLM

from lora_sku.adapters import (
    CONFIG_FILE,
    MARKER_FILE,
    WEIGHTS_FILE,
    Provenance,
    read_lora,
    save_acquired,
    write_lora,
)
from lora_sku.errors import AdapterError, StorageError
from lora_sku.model import ACQUIRED, NEGATED, AdaptedModel, Base
from lora_sku.negation import (
    negate,
    negated_factors,
    verify_files,
    verify_loaded,
)

PATTERNS: dict[str, Any] = {
    "r": 4,
    "lora_alpha": 6,
    "target_modules": ["q_proj", "k_proj", "down_proj"],
    "rank_pattern": {"k_proj": 2, "layers.1.self_attn.q_proj": 9},
    "alpha_pattern": {"q_proj": 3},
}
KINDS: dict[str, dict[str, Any]] = {
    "canonical": {"r": 4, "lora_alpha": 4, "target_modules": "all-linear"},
    "scaled": {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "up_proj"]},
    "rslora": {"r": 3, "lora_alpha": 7, "use_rslora": True, "target_modules": ["v_proj"]},
    "patterns": PATTERNS,
    "rslora patterns": PATTERNS | {"use_rslora": True},
}


def plain_base(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def from_elsewhere(folder: Path, base_folder: Path, **keys: Any) -> Path:
    """An adapter as PEFT alone writes it, with random A and B."""
    torch.manual_seed(3)
    model = get_peft_model(plain_base(base_folder), LoraConfig(init_lora_weights=False, **keys))
    model.save_pretrained(folder)
    return folder


def from_stage_1(folder: Path, base: Base, *, std: float = 0.05) -> Path:
    model = adapt(base)
    teach(model, std=std)
    save_acquired(model, ACQUIRED, folder)
    return folder


def peft_deltas(
    adapter: Path, base_folder: Path, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Each layer's delta as plain PEFT computes it after a plain reload."""
    model = PeftModel.from_pretrained(plain_base(base_folder, dtype), adapter)
    return {
        name: layer.get_delta_weight("default").detach().float()
        for name, layer in model.base_model.model.named_modules()
        if isinstance(layer, LoraLayer)
    }


@pytest.fixture
def acquired(base: Base, tmp_path: Path) -> Path:
    return from_stage_1(tmp_path / "acquired", base)


# The identity


@pytest.mark.parametrize("strength", [1.0, 0.5, 3.0])
@pytest.mark.parametrize("kind", KINDS)
def test_plain_peft_finds_minus_the_delta_in_every_layer(
    tiny_llama: Path, tmp_path: Path, kind: str, strength: float
) -> None:
    adapter = from_elsewhere(tmp_path / "a", tiny_llama, **KINDS[kind])
    negate(adapter, tmp_path / "n", strength=strength)
    gained = peft_deltas(adapter, tiny_llama, torch.bfloat16)
    taken = peft_deltas(tmp_path / "n", tiny_llama, torch.bfloat16)
    assert gained.keys() == taken.keys()
    for module, delta in gained.items():
        assert delta.abs().max() > 0.01
        torch.testing.assert_close(taken[module], -strength * delta, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["canonical", "scaled", "rslora"])
def test_merging_the_negation_takes_exactly_the_scaled_product_away(
    tiny_llama: Path, tmp_path: Path, kind: str
) -> None:
    adapter = from_elsewhere(tmp_path / "a", tiny_llama, **KINDS[kind])
    negate(adapter, tmp_path / "n", strength=0.7)
    merged = PeftModel.from_pretrained(plain_base(tiny_llama), tmp_path / "n").merge_and_unload()
    after, before = dict(merged.named_parameters()), dict(plain_base(tiny_llama).named_parameters())
    keys = KINDS[kind]
    scaling = keys["lora_alpha"] / (math.sqrt(keys["r"]) if keys.get("use_rslora") else keys["r"])
    tensors = load_file(adapter / WEIGHTS_FILE)
    touched = set()
    for key, a in tensors.items():
        if "lora_A" in key:
            b = tensors[key.replace("lora_A", "lora_B")]
            name = key.removeprefix("base_model.model.").replace("lora_A.weight", "weight")
            touched.add(name)
            expected = -0.7 * scaling * (b.double() @ a.double())
            actual = after[name].double() - before[name].double()
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    assert touched
    for name in before.keys() - touched:
        assert torch.equal(after[name], before[name])


def test_negating_twice_gives_the_canonical_adapter_back_bitwise(
    tiny_llama: Path, tmp_path: Path
) -> None:
    adapter = from_elsewhere(tmp_path / "a", tiny_llama, **KINDS["canonical"])
    negate(negate(adapter, tmp_path / "n"), tmp_path / "nn")
    once = load_file(tmp_path / "n" / WEIGHTS_FILE)
    twice, original = load_file(tmp_path / "nn" / WEIGHTS_FILE), load_file(adapter / WEIGHTS_FILE)
    assert twice.keys() == original.keys()
    for key, tensor in original.items():
        assert torch.equal(twice[key], tensor)
        assert torch.equal(once[key], -tensor if "lora_B" in key else tensor)


@pytest.mark.parametrize("kind", KINDS)
def test_the_result_is_canonical(tiny_llama: Path, tmp_path: Path, kind: str) -> None:
    adapter = from_elsewhere(tmp_path / "a", tiny_llama, **KINDS[kind], lora_dropout=0.1)
    negate(adapter, tmp_path / "n", strength=2.0)
    config = json.loads((tmp_path / "n" / CONFIG_FILE).read_text())
    rank = 9 if "patterns" in kind else KINDS[kind]["r"]
    assert config["r"] == config["lora_alpha"] == rank
    assert config["use_rslora"] is False
    assert config["rank_pattern"] == config["alpha_pattern"] == {}
    assert config["lora_dropout"] == 0
    assert config["inference_mode"] is True
    assert config["bias"] == "none"
    original = json.loads((adapter / CONFIG_FILE).read_text())
    assert sorted(config["target_modules"]) == sorted(original["target_modules"])
    assert config["base_model_name_or_path"] == original["base_model_name_or_path"]
    for key, tensor in load_file(tmp_path / "n" / WEIGHTS_FILE).items():
        assert tensor.dtype == torch.float32
        assert tensor.shape["lora_B" in key] == rank


def test_smaller_ranks_are_padded_with_zeros(tiny_llama: Path, tmp_path: Path) -> None:
    adapter = read_lora(from_elsewhere(tmp_path / "a", tiny_llama, **PATTERNS))
    module = "model.layers.0.self_attn.k_proj"
    a, b = negated_factors(adapter, 1.0)[module]
    assert torch.equal(a[:2], adapter.factors[module][0])
    assert not a[2:].any()
    assert torch.equal(b[:, :2], adapter.factors[module][1] * -3)  # alpha 6 / rank 2
    assert not b[:, 2:].any()


def test_a_bf16_adapter_is_negated_in_fp32(tiny_llama: Path, tmp_path: Path) -> None:
    adapter = from_elsewhere(tmp_path / "a", tiny_llama, **KINDS["scaled"])
    path = adapter / WEIGHTS_FILE
    rounded = {key: tensor.bfloat16() for key, tensor in load_file(path).items()}
    save_file(rounded, path)
    negate(adapter, tmp_path / "n", strength=1 / 3)
    negated = load_file(tmp_path / "n" / WEIGHTS_FILE)
    for key, tensor in rounded.items():
        expected = tensor.float() * (-0.5 if "lora_B" in key else 1.0)  # 1/3 * 6/4
        torch.testing.assert_close(negated[key], expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_the_live_model_agrees_however_it_is_quantized(
    tiny_llama: Path, tmp_path: Path, quantization: str
) -> None:
    model = adapt(load(tiny_llama, quantization))
    teach(model)
    save_acquired(model, ACQUIRED, tmp_path / "a")
    model.load_adapter(negate(tmp_path / "a", tmp_path / "n", strength=0.5), NEGATED)
    verify_loaded(model, ACQUIRED, NEGATED, 0.5)
    with pytest.raises(AdapterError, match=r"negated delta of .*q_proj is off"):
        verify_loaded(model, ACQUIRED, NEGATED, 0.6)


# What lora-sku says about it


def test_the_negated_adapter_says_so_and_may_be_shipped(acquired: Path, tmp_path: Path) -> None:
    assert (acquired / MARKER_FILE).exists()
    output = negate(acquired, tmp_path / "n", strength=0.5)
    assert output == tmp_path / "n"
    known = read_lora(acquired).provenance
    assert known is not None
    assert read_lora(output).provenance == Provenance("negated", 0.5, known.base_fingerprint)
    assert not (output / MARKER_FILE).exists()


def test_negating_a_negated_adapter_is_harmful_again_and_marked(
    acquired: Path, tmp_path: Path
) -> None:
    twice = negate(negate(acquired, tmp_path / "n"), tmp_path / "nn")
    provenance = read_lora(twice).provenance
    assert provenance is not None
    assert provenance.role == "acquired"
    assert "MORE harmful" in (twice / MARKER_FILE).read_text()


def test_an_adapter_from_elsewhere_stays_without_provenance(
    tiny_llama: Path, tmp_path: Path
) -> None:
    negate(from_elsewhere(tmp_path / "a", tiny_llama, **KINDS["scaled"]), tmp_path / "n")
    assert read_lora(tmp_path / "n").provenance is None


# Refusals: nothing may be left behind


@pytest.mark.parametrize("strength", [0.0, -1.0, math.nan, math.inf])
def test_a_strength_that_is_no_positive_number_is_refused(
    acquired: Path, tmp_path: Path, strength: float
) -> None:
    with pytest.raises(AdapterError, match="the strength is"):
        negate(acquired, tmp_path / "n", strength=strength)
    assert os.listdir(tmp_path) == ["acquired"]


def test_the_output_may_not_be_the_adapter_itself(acquired: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(acquired)
    for output in (acquired, tmp_path / "link", tmp_path / "acquired" / ".." / "acquired"):
        with pytest.raises(AdapterError, match="would replace the one it is made from"):
            negate(acquired, output, overwrite=True)
    assert (acquired / MARKER_FILE).exists()


def test_an_existing_output_is_replaced_only_on_demand(acquired: Path, tmp_path: Path) -> None:
    output = negate(acquired, tmp_path / "n")
    with pytest.raises(StorageError, match="already exists") as caught:
        negate(acquired, output, strength=2.0)
    assert caught.value.where == str(output)
    provenance = read_lora(output).provenance
    assert provenance is not None
    assert provenance.strength == 1.0
    (output / "old").touch()
    negate(acquired, output, strength=2.0, overwrite=True)
    provenance = read_lora(output).provenance
    assert provenance is not None
    assert provenance.strength == 2.0
    assert not (output / "old").exists()


def test_a_folder_that_holds_something_else_is_never_replaced(
    acquired: Path, tmp_path: Path
) -> None:
    output = tmp_path / "n"
    output.mkdir()
    (output / "mine").touch()
    with pytest.raises(StorageError, match="something else than an adapter"):
        negate(acquired, output, overwrite=True)
    assert os.listdir(output) == ["mine"]
    (output / "mine").unlink()
    negate(acquired, output, overwrite=True)  # an empty folder holds nothing to lose


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_dora", True),
        ("bias", "all"),
        ("modules_to_save", ["lm_head"]),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "olora"),
        ("init_lora_weights", "loftq"),
        ("a_key_of_next_year", "anything"),
        ("peft_type", "IA3"),
    ],
)
def test_what_cannot_be_negated_is_refused(
    acquired: Path, tmp_path: Path, key: str, value: object
) -> None:
    path = acquired / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(AdapterError, match=f"{key} is {value!r}".replace("[", r"\[")):
        negate(acquired, tmp_path / "n")
    assert os.listdir(tmp_path) == ["acquired"]


def test_a_damaged_or_missing_file_is_refused(acquired: Path, tmp_path: Path) -> None:
    weights = acquired / WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(AdapterError, match="damaged"):
        negate(acquired, tmp_path / "n")
    weights.unlink()
    with pytest.raises(AdapterError, match="there is no"):
        negate(acquired, tmp_path / "n")
    assert os.listdir(tmp_path) == ["acquired"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("half", ["lora_A", "lora_B"])
def test_non_finite_weights_are_caught_by_the_verification(
    acquired: Path, tmp_path: Path, half: str, value: float
) -> None:
    tensors = load_file(acquired / WEIGHTS_FILE)
    tensors[f"base_model.model.model.layers.1.mlp.up_proj.{half}.weight"][1, 1] = value
    save_file(tensors, acquired / WEIGHTS_FILE)
    with pytest.raises(AdapterError, match=r"layers\.1\.mlp\.up_proj is off"):
        negate(acquired, tmp_path / "n")
    assert os.listdir(tmp_path) == ["acquired"]


def test_a_write_that_goes_wrong_is_caught_and_leaves_nothing(
    acquired: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forget_the_sign(folder: Path, config: Any, factors: Any, provenance: Any) -> None:
        write_lora(folder, config, {m: (a, -b) for m, (a, b) in factors.items()}, provenance)

    monkeypatch.setattr("lora_sku.negation.write_lora", forget_the_sign)
    with pytest.raises(AdapterError, match="is off by"):
        negate(acquired, tmp_path / "n")
    assert os.listdir(tmp_path) == ["acquired"]


@pytest.mark.parametrize("row", [3, -1])
def test_one_entry_that_is_off_is_enough(
    acquired: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: int
) -> None:
    monkeypatch.setattr("lora_sku.negation.ROWS_AT_ONCE", 5)  # the last slice is a shorter one
    read = read_lora(acquired)
    factors = negated_factors(read, 1.0)
    factors["model.layers.0.mlp.gate_proj"][1][row, 0] *= 1.5
    (tmp_path / "n").mkdir()
    write_lora(tmp_path / "n", dict(read.config) | {"r": 4, "lora_alpha": 4}, factors, None)
    with pytest.raises(AdapterError, match=r"layers\.0\.mlp\.gate_proj is off"):
        verify_files(read, read_lora(tmp_path / "n"), 1.0)


def test_an_adapter_that_learned_nothing_negates_to_nothing(base: Base, tmp_path: Path) -> None:
    save_acquired(adapt(base), ACQUIRED, tmp_path / "a")
    negate(tmp_path / "a", tmp_path / "n")
    assert all(not b.any() for _, b in read_lora(tmp_path / "n").factors.values())


def test_the_negated_model_differs_from_the_base_the_other_way(
    base: Base, tiny_llama: Path, tmp_path: Path
) -> None:
    acquired = from_stage_1(tmp_path / "a", base, std=0.002)
    negate(acquired, tmp_path / "n")
    ids = torch.arange(10)[None]

    def shift(folder: Path) -> Tensor:
        model = AdaptedModel.with_adapter_from(load(tiny_llama), folder)
        with torch.no_grad():
            changed = model.hidden_states(ids)
            with model.reference_mode():
                return changed - model.hidden_states(ids)

    there, back = shift(acquired), shift(tmp_path / "n")
    cosine = torch.nn.functional.cosine_similarity(there.flatten(), back.flatten(), dim=0)
    assert cosine < -0.9
