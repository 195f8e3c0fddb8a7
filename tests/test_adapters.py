"""LoRA adapters as files."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import adapt, llama_config, load, save_model, teach
from transformers import AutoModelForCausalLM, GPT2Config

from lora_sku.adapters import (
    CONFIG_FILE,
    MARKER_FILE,
    PROVENANCE_FILE,
    WEIGHTS_FILE,
    Provenance,
    check_fits,
    read_lora,
    save_acquired,
    write_lora,
)
from lora_sku.errors import AdapterError
from lora_sku.model import ACQUIRED, Base
from lora_sku.negation import negate

Q_PROJ = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def acquired(base: Base, tmp_path: Path) -> Path:
    """A taught adapter of the tiny Llama, as stage 1 saves it."""
    model = adapt(base)
    teach(model)
    save_acquired(model, ACQUIRED, tmp_path / "acquired")
    return tmp_path / "acquired"


def edit_config(folder: Path, **keys: Any) -> None:
    path = folder / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS_FILE)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS_FILE)


# Reading and writing


def test_an_acquired_adapter_reads_back_bitwise(base: Base, tmp_path: Path) -> None:
    model = adapt(base, target_modules=("q_proj", "down_proj"))
    teach(model)
    save_acquired(model, ACQUIRED, tmp_path / "a")
    read = read_lora(tmp_path / "a")
    live = model.trained_parameters()
    assert len(read.factors) == 4  # two modules in each of two layers
    for module, (a, b) in read.factors.items():
        assert torch.equal(a, live[f"base_model.model.{module}.lora_A.{ACQUIRED}.weight"])
        assert torch.equal(b, live[f"base_model.model.{module}.lora_B.{ACQUIRED}.weight"])


def test_an_acquired_adapter_says_what_it_is(base: Base, acquired: Path) -> None:
    assert "Delete it" in (acquired / MARKER_FILE).read_text()
    assert read_lora(acquired).provenance == Provenance("acquired", 1.0, base.fingerprint)
    config = read_lora(acquired).config
    assert config["inference_mode"] is True
    assert config["base_model_name_or_path"] == base.located.written


def test_a_negated_adapter_carries_no_marker(acquired: Path, tmp_path: Path) -> None:
    read = read_lora(acquired)
    folder = tmp_path / "n"
    folder.mkdir()
    write_lora(folder, read.config, read.factors, Provenance("negated", 1.0, "f"))
    assert not (folder / MARKER_FILE).exists()
    assert read_lora(folder).provenance == Provenance("negated", 1.0, "f")


def test_plain_peft_loads_what_was_saved(base: Base, acquired: Path, tiny_llama: Path) -> None:
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama), acquired)
    deltas = read_lora(acquired)
    modules = dict(plain.base_model.model.named_modules())
    for module in deltas.factors:
        torch.testing.assert_close(
            modules[module].get_delta_weight("default"), deltas.delta(module)
        )


def test_an_adapter_that_another_tool_wrote_has_no_provenance(acquired: Path) -> None:
    (acquired / PROVENANCE_FILE).unlink()
    assert read_lora(acquired).provenance is None


# Scaling and delta


@pytest.mark.parametrize("use_rslora", [False, True])
def test_scaling_and_delta_are_pefts_own_under_patterns(
    tiny_llama: Path, tmp_path: Path, use_rslora: bool
) -> None:
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        use_rslora=use_rslora,
        target_modules=["q_proj", "k_proj", "down_proj"],
        rank_pattern={"k_proj": 2, "layers.1.self_attn.q_proj": 9},
        alpha_pattern={"q_proj": 3, r"layers\.0\.mlp\.down_proj": 5},
        init_lora_weights=False,
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_llama), config)
    model.save_pretrained(tmp_path)
    read = read_lora(tmp_path)
    modules = dict(model.base_model.model.named_modules())
    for module in read.factors:
        expected = modules[module].get_delta_weight("default")
        torch.testing.assert_close(read.delta(module), expected, rtol=1e-5, atol=1e-6)
    root = math.sqrt if use_rslora else float
    assert read.scaling(Q_PROJ) == pytest.approx(3 / root(4))
    assert read.scaling("model.layers.1.self_attn.q_proj") == pytest.approx(3 / root(9))
    assert read.scaling("model.layers.1.self_attn.k_proj") == pytest.approx(6 / root(2))
    assert read.scaling("model.layers.0.mlp.down_proj") == pytest.approx(5 / root(4))


# Refusals


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_missing_file_is_refused_by_name(acquired: Path, name: str) -> None:
    (acquired / name).unlink()
    with pytest.raises(AdapterError, match=f"there is no {name}") as caught:
        read_lora(acquired)
    assert caught.value.where == str(acquired)


@pytest.mark.parametrize("kind", ["IA3", "LOHA", None])
def test_what_is_no_lora_is_refused(acquired: Path, kind: str | None) -> None:
    edit_config(acquired, peft_type=kind)
    with pytest.raises(AdapterError, match=f"peft_type is {kind!r}"):
        read_lora(acquired)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_dora", True),
        ("bias", "lora_only"),
        ("lora_bias", True),
        ("modules_to_save", ["embed_tokens"]),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "olora"),
        ("init_lora_weights", "loftq"),
        ("target_parameters", ["mlp.experts.down_proj"]),
        ("a_key_of_next_year", 1),
    ],
)
def test_what_has_no_exact_negation_is_refused(acquired: Path, key: str, value: object) -> None:
    edit_config(acquired, **{key: value})
    with pytest.raises(AdapterError, match=f"{key} is") as caught:
        read_lora(acquired)
    assert caught.value.where == str(acquired / CONFIG_FILE)


@pytest.mark.parametrize("name", [CONFIG_FILE, PROVENANCE_FILE])
@pytest.mark.parametrize(
    ("content", "problem"), [(b'{"r": ', "no JSON:"), (b"\xff\xfe", "no JSON:"), (b"[]", "object")]
)
def test_broken_json_is_refused(acquired: Path, name: str, content: bytes, problem: str) -> None:
    (acquired / name).write_bytes(content)
    with pytest.raises(AdapterError, match=problem) as caught:
        read_lora(acquired)
    assert caught.value.where == str(acquired / name)


def test_a_provenance_of_another_shape_is_refused(acquired: Path) -> None:
    (acquired / PROVENANCE_FILE).write_text('{"role": "acquired", "mood": "good"}')
    with pytest.raises(AdapterError) as caught:
        read_lora(acquired)
    assert caught.value.where == str(acquired / PROVENANCE_FILE)


@pytest.mark.parametrize("kept", [0, 5, 200, -1])
def test_a_cut_weights_file_is_refused(acquired: Path, kept: int) -> None:
    path = acquired / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(AdapterError, match="damaged") as caught:
        read_lora(acquired)
    assert caught.value.where == str(path)


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.model.embed_tokens.lora_embedding_A",
        "base_model.model.lm_head.weight",
        "base_model.model.model.norm.lora_magnitude_vector",
        "elsewhere.q_proj.lora_A.weight",
    ],
)
def test_a_tensor_that_is_no_lora_half_is_refused(acquired: Path, name: str) -> None:
    edit_weights(acquired, lambda tensors: tensors.update({name: torch.zeros(4, 4)}))
    with pytest.raises(AdapterError, match=f"{name} is not half of a LoRA pair"):
        read_lora(acquired)


def test_a_convolutions_factors_are_refused(acquired: Path) -> None:
    name = "base_model.model.conv.lora_A.weight"
    edit_weights(acquired, lambda tensors: tensors.update({name: torch.zeros(4, 4, 1)}))
    with pytest.raises(AdapterError, match="not half of a LoRA pair"):
        read_lora(acquired)


def test_a_half_alone_or_of_another_rank_is_refused(acquired: Path) -> None:
    name = f"base_model.model.{Q_PROJ}.lora_B.weight"
    edit_weights(acquired, lambda tensors: tensors.update({name: torch.zeros(64, 3)}))
    with pytest.raises(AdapterError, match=f"factors of {Q_PROJ} do not fit"):
        read_lora(acquired)
    edit_weights(acquired, lambda tensors: tensors.pop(name))
    with pytest.raises(AdapterError, match=f"factors of {Q_PROJ} do not fit"):
        read_lora(acquired)


def test_an_empty_adapter_is_refused(acquired: Path) -> None:
    edit_weights(acquired, lambda tensors: tensors.clear())
    with pytest.raises(AdapterError, match="empty"):
        read_lora(acquired)


# The right base


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_an_adapter_fits_its_base_however_that_is_quantized(
    acquired: Path, tiny_llama: Path, quantization: str
) -> None:
    check_fits(read_lora(acquired), load(tiny_llama, quantization))


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_an_adapter_on_gpt2s_own_linear_layers_fits(tmp_path: Path, quantization: str) -> None:
    config = GPT2Config(
        vocab_size=300, n_embd=64, n_layer=1, n_head=4, bos_token_id=0, eos_token_id=1
    )
    folder = save_model(tmp_path / "gpt2", config)
    model = adapt(load(folder, quantization))
    teach(model)
    save_acquired(model, ACQUIRED, tmp_path / "a")
    read = read_lora(tmp_path / "a")
    check_fits(read, load(folder, quantization))
    check_fits(read, model.base)  # the layers that carry an adapter already
    wide = save_model(tmp_path / "wide", GPT2Config(**{**config.to_dict(), "n_inner": 200}))
    (tmp_path / "a" / PROVENANCE_FILE).unlink()
    with pytest.raises(AdapterError, match="has one of 200 x 64"):
        check_fits(read_lora(tmp_path / "a"), load(wide, quantization))


def test_a_base_of_the_same_shape_with_other_weights_is_refused(
    acquired: Path, other_llama: Path
) -> None:
    with pytest.raises(AdapterError, match=r"another base than .*other-llama") as caught:
        check_fits(read_lora(acquired), load(other_llama))
    assert caught.value.where == str(acquired)


def test_without_provenance_a_layer_of_another_shape_is_refused(
    acquired: Path, tmp_path: Path
) -> None:
    (acquired / PROVENANCE_FILE).unlink()
    wide = load(save_model(tmp_path / "wide", llama_config(intermediate_size=192)))
    with pytest.raises(AdapterError, match=r"(128 x 64|64 x 128).* has one of (192 x 64|64 x 192)"):
        check_fits(read_lora(acquired), wide)


def test_without_provenance_a_missing_layer_is_refused(acquired: Path, tmp_path: Path) -> None:
    (acquired / PROVENANCE_FILE).unlink()
    shallow = load(save_model(tmp_path / "shallow", llama_config(num_hidden_layers=1)))
    with pytest.raises(AdapterError, match=r"layers\.1\..*has no such layer"):
        check_fits(read_lora(acquired), shallow)


def test_without_provenance_a_layer_of_another_kind_is_refused(acquired: Path, base: Base) -> None:
    (acquired / PROVENANCE_FILE).unlink()
    halves = {
        "base_model.model.model.norm.lora_A.weight": torch.zeros(4, 64),
        "base_model.model.model.norm.lora_B.weight": torch.zeros(64, 4),
    }
    edit_weights(acquired, lambda tensors: tensors.update(halves))
    with pytest.raises(AdapterError, match=r"model\.norm .*no such layer"):
        check_fits(read_lora(acquired), base)


def test_without_provenance_the_name_of_the_base_must_agree(
    acquired: Path, base: Base, other_llama: Path
) -> None:
    (acquired / PROVENANCE_FILE).unlink()
    check_fits(read_lora(acquired), base)
    with pytest.raises(AdapterError, match=r"belongs to .*, not to .*other-llama"):
        check_fits(read_lora(acquired), load(other_llama))
    # The same model in another place keeps its last name; a config without a name says nothing.
    for name in (f"/elsewhere/{other_llama.name}", None):
        config = json.loads((acquired / CONFIG_FILE).read_text())
        (acquired / CONFIG_FILE).write_text(
            json.dumps(config | {"base_model_name_or_path": name}), encoding="utf-8"
        )
        check_fits(read_lora(acquired), load(other_llama))


def test_negation_keeps_the_base_an_adapter_belongs_to(
    acquired: Path, other_llama: Path, tmp_path: Path
) -> None:
    negated = read_lora(negate(acquired, tmp_path / "negated"))
    with pytest.raises(AdapterError, match="another base"):
        check_fits(negated, load(other_llama))


def test_a_folder_that_is_not_there_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="no such folder"):
        read_lora(tmp_path / "gone")
