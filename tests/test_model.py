"""One base in memory; with its adapters off it is the original model, bit for bit."""

import hashlib
import shutil
from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch
from peft.tuners.lora import LoraLayer
from tiny import adapt, llama_config, load, logits_of, make_batch, save_model, teach
from torch import Tensor

from lora_sku.adapters import save_acquired
from lora_sku.errors import AdapterError, ModelError
from lora_sku.losses import preservation_divergence, token_kl
from lora_sku.model import (
    ACQUIRED,
    NEGATED,
    AdaptedModel,
    Base,
    linear_layer_names,
    load_base,
    load_tokenizer,
    locate_base,
)
from lora_sku.recipe import AdapterSection, BaseModelSection

QUANTIZATIONS = ["none", "nf4", "fp4", "int8"]
IDS = torch.arange(5, 29).view(2, 12)

each_quantization = pytest.mark.parametrize("quantization", QUANTIZATIONS)
each_mode = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


@torch.no_grad()
def hidden(model: AdaptedModel) -> Tensor:
    return model.hidden_states(IDS)


@torch.no_grad()
def base_hidden(base: Base) -> Tensor:
    states: Tensor = base.model.get_decoder()(input_ids=IDS, use_cache=False).last_hidden_state
    return states


def bytes_of_base(base: Base) -> str:
    """A digest of everything the base holds, quantization constants and buffers too."""
    digest = hashlib.sha256()
    for name, tensor in sorted(base.model.state_dict().items()):
        if "lora_" not in name:
            digest.update(name.replace(".base_layer", "").encode())
            digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


# Loading


@each_quantization
def test_a_base_is_frozen_quantized_and_in_evaluation_mode(
    tiny_llama: Path, quantization: str
) -> None:
    base = load(tiny_llama, quantization, compute_dtype="bfloat16")
    assert not any(p.requires_grad for p in base.model.parameters())
    assert not base.model.training
    assert base.compute_dtype == torch.bfloat16
    assert base.head.weight_VD.dtype == torch.bfloat16
    assert base.device == torch.device("cpu")
    expected = {"none": torch.nn.Linear, "int8": bnb.nn.Linear8bitLt}
    layer = base.model.get_submodule("model.layers.0.mlp.up_proj")
    assert type(layer) is expected.get(quantization, bnb.nn.Linear4bit)


@pytest.mark.parametrize("quantization", ["nf4", "fp4"])
def test_four_bits_are_of_the_kind_the_recipe_says(tiny_llama: Path, quantization: str) -> None:
    base = load(tiny_llama, quantization, compute_dtype="bfloat16")
    layer = base.model.get_submodule("model.layers.1.self_attn.o_proj")
    state = layer.weight.quant_state
    assert state.quant_type == quantization
    assert state.nested  # double quantization
    assert layer.compute_dtype == torch.bfloat16


def test_the_fingerprint_is_the_models_not_the_quantizations(
    tiny_llama: Path, other_llama: Path
) -> None:
    prints = {load(tiny_llama, quantization).fingerprint for quantization in QUANTIZATIONS}
    prints.add(load(tiny_llama, compute_dtype="bfloat16").fingerprint)
    assert len(prints) == 1
    assert load(other_llama).fingerprint not in prints


def test_the_fingerprint_is_the_same_in_every_dtype(tmp_path: Path) -> None:
    folder = save_model(tmp_path, llama_config(), dtype=torch.float32)
    assert load(folder).fingerprint == load(folder, compute_dtype="bfloat16").fingerprint


def test_a_folder_that_transformers_cannot_load_is_refused(
    tiny_llama: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(tiny_llama, tmp_path / "broken")
    (broken / "config.json").write_text('{"model_type": "unheard_of"}')
    with pytest.raises(ModelError, match="transformers cannot load this model") as caught:
        load(broken)
    assert caught.value.where == str(broken)


def test_a_folder_without_tokenizer_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(tiny_llama, tmp_path / "broken")
    (broken / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="cannot load its tokenizer"):
        load_tokenizer(BaseModelSection(path=str(broken)))


def test_a_full_card_is_told_as_such(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def overflow(*_: object, **__: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("lora_sku.model.load_weights", overflow)
    with pytest.raises(ModelError, match="does not fit into this GPU's memory"):
        load(tiny_llama)


def test_a_tokenizer_loads_without_weights(tiny_llama: Path) -> None:
    tokenizer = load_tokenizer(BaseModelSection(path=str(tiny_llama)))
    assert tokenizer.eos_token == "</s>"


def test_a_folder_is_loaded_from_where_it_is(tiny_llama: Path) -> None:
    located, folder = locate_base(BaseModelSection(path=str(tiny_llama)))
    assert located.path == folder == tiny_llama


def test_a_cuda_base_without_cuda_is_refused(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match="no CUDA device"):
        load_base(BaseModelSection(path=str(tiny_llama), device="cuda"))


# Adapter off is theta_o


@each_mode
@each_quantization
def test_adapter_off_is_the_base_bitwise(
    tiny_llama: Path, quantization: str, training: bool
) -> None:
    base = load(tiny_llama, quantization)
    base.model.train(training)
    before_hidden, before_logits = base_hidden(base), logits_of(base.model, IDS)
    model = adapt(base)
    teach(model, std=0.5)
    base.model.train(training)
    with model.reference_mode():
        assert torch.equal(hidden(model), before_hidden)
        assert torch.equal(logits_of(base.model, IDS), before_logits)
    assert not torch.allclose(hidden(model), before_hidden, atol=0.1)


@each_mode
@each_quantization
def test_at_step_0_every_delta_and_the_divergence_are_zero(
    tiny_llama: Path, quantization: str, training: bool
) -> None:
    base = load(tiny_llama, quantization)
    model = adapt(base)
    base.model.train(training)
    deltas = dict(model.deltas(ACQUIRED))
    assert len(deltas) == 14
    assert not any(delta.any() for delta in deltas.values())
    batch = make_batch(base)
    with model.reference_mode(), torch.no_grad():
        reference_ND = model.answer_states(batch)
    hidden_ND = model.answer_states(batch)
    _, kl = preservation_divergence(
        hidden_ND, reference_ND, base.head, total_tokens=len(batch.targets)
    )
    assert kl.item() == 0


@each_quantization
def test_training_leaves_every_byte_of_the_base_alone(tiny_llama: Path, quantization: str) -> None:
    base = load(tiny_llama, quantization)
    hidden_before, before = base_hidden(base), bytes_of_base(base)
    model = adapt(base)
    base.model.train()
    batch = make_batch(base)
    parameters = model.trained_parameters()
    start = {name: p.detach().clone() for name, p in parameters.items()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.05)
    for _ in range(3):
        hidden_ND = model.answer_states(batch)
        hidden_ND.square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        hidden(model)  # an evaluation in between must not repack anything
    base.model.eval()
    assert all(not torch.equal(parameters[name], start[name]) for name in parameters)
    assert bytes_of_base(base) == before
    with model.reference_mode():
        assert torch.equal(hidden(model), hidden_before)


# The reference mode


def test_the_adapter_is_back_on_after_an_exception(base: Base) -> None:
    model = adapt(base)
    teach(model)
    on = hidden(model)
    with pytest.raises(RuntimeError, match="stop"), model.reference_mode():
        raise RuntimeError("stop")
    assert torch.equal(hidden(model), on)


def test_an_inner_reference_mode_does_not_end_the_outer_one(base: Base) -> None:
    model = adapt(base)
    teach(model)
    on = hidden(model)
    with model.reference_mode():
        off = hidden(model)
        with model.reference_mode():
            assert torch.equal(hidden(model), off)
        assert torch.equal(hidden(model), off)
    assert torch.equal(hidden(model), on)
    assert not torch.equal(on, off)


def test_the_reference_mode_leaves_gradients_of_a_running_step_alone(base: Base) -> None:
    model = adapt(base)
    teach(model)
    running = model.hidden_states(IDS)
    with model.reference_mode(), torch.no_grad():
        model.hidden_states(IDS)
    assert all(p.requires_grad for p in model.trained_parameters().values())
    running.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.trained_parameters().values())


# The two faces of one adapter


def minus_b(base: Base, model: AdaptedModel) -> AdaptedModel:
    """Another model of the same base, whose adapter has the same A and -B."""
    other = adapt(base)
    mine = model.trained_parameters()
    with torch.no_grad():
        for name, parameter in other.trained_parameters().items():
            parameter.copy_(-mine[name] if "lora_B" in name else mine[name])
    return other


@each_mode
@each_quantization
def test_the_negated_face_is_an_adapter_with_b_negated_bitwise(
    tiny_llama: Path, quantization: str, training: bool
) -> None:
    model = adapt(load(tiny_llama, quantization))
    teach(model, std=0.2)
    other = minus_b(load(tiny_llama, quantization), model)
    model.base.model.train(training)
    other.base.model.train(training)
    acquired = hidden(model)
    with model.on(NEGATED):
        negated = hidden(model)
    assert torch.equal(negated, hidden(other))
    assert not torch.allclose(negated, acquired, atol=0.1)
    with other.on(NEGATED):
        assert torch.equal(hidden(other), acquired)


def test_outside_and_on_the_acquired_face_nothing_changes(base: Base) -> None:
    model = adapt(base)
    teach(model)
    scalings = [dict(layer.scaling) for layer in model.adapted_layers]
    before = hidden(model)
    with model.on(ACQUIRED):
        assert torch.equal(hidden(model), before)
    for _ in range(2):
        with model.on(NEGATED):
            assert not torch.equal(hidden(model), before)
        assert torch.equal(hidden(model), before)
    assert [dict(layer.scaling) for layer in model.adapted_layers] == scalings


def test_flipping_twice_is_nothing_bitwise(base: Base) -> None:
    model = adapt(base, lora_alpha=7, r=3)  # a scaling that is no power of two
    teach(model)
    before = hidden(model)
    with model.on(NEGATED), model.on(NEGATED):
        assert torch.equal(hidden(model), before)
    assert torch.equal(hidden(model), before)


def test_an_adapter_that_is_off_has_no_faces(base: Base) -> None:
    model = adapt(base)
    off = hidden(model)  # B is still 0
    teach(model)
    with model.on(NEGATED), model.reference_mode():
        assert torch.equal(hidden(model), off)
    with model.reference_mode(), model.on(NEGATED):
        assert torch.equal(hidden(model), off)
    assert not torch.equal(hidden(model), off)


def test_the_acquired_face_is_back_after_an_exception(base: Base) -> None:
    model = adapt(base)
    teach(model)
    before = hidden(model)
    with pytest.raises(RuntimeError, match="stop"), model.on(NEGATED):
        raise RuntimeError("stop")
    assert torch.equal(hidden(model), before)


def test_gradients_on_the_negated_face_are_those_of_the_negated_adapter(
    base: Base, tiny_llama: Path
) -> None:
    model = adapt(base)
    teach(model, std=0.2)
    other = minus_b(load(tiny_llama), model)
    with model.on(NEGATED):
        model.hidden_states(IDS).square().sum().backward()
    other.hidden_states(IDS).square().sum().backward()
    expected = other.trained_parameters()
    for name, parameter in model.trained_parameters().items():
        sign = -1 if "lora_B" in name else 1  # B there is minus B here
        assert parameter.grad is not None
        assert parameter.grad.any()
        assert torch.equal(parameter.grad, sign * expected[name].grad)


def test_only_the_active_adapter_is_turned(base: Base, tmp_path: Path) -> None:
    model = adapt(base)
    teach(model)
    save_acquired(model, ACQUIRED, tmp_path / "a")
    teach(model, seed=2)
    model.load_adapter(tmp_path / "a", NEGATED)
    with model.on(NEGATED):
        scalings = [dict(layer.scaling) for layer in model.adapted_layers]
    assert all(scaling == {ACQUIRED: 2.0, NEGATED: -2.0} for scaling in scalings)


# Adapters


def test_only_the_adapter_is_trained_and_in_fp32(tiny_llama: Path) -> None:
    model = adapt(load(tiny_llama, "nf4", compute_dtype="bfloat16"), target_modules=("v_proj",))
    parameters = model.trained_parameters()
    assert len(parameters) == 4  # A and B in each of two layers
    assert all(".v_proj.lora_" in name for name in parameters)
    assert all(p.dtype == torch.float32 for p in parameters.values())


def test_the_seed_decides_the_adapters_start(tiny_llama: Path) -> None:
    def start(seed: int) -> list[Tensor]:
        return list(adapt(load(tiny_llama), seed=seed).trained_parameters().values())

    first, same, other = start(1), start(1), start(2)
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_the_recipes_adapter_settings_reach_peft(base: Base) -> None:
    model = adapt(
        base,
        r=3,
        lora_alpha=5,
        use_rslora=True,
        lora_dropout=0.25,
        target_modules=("q_proj", "up_proj"),
        layers_to_transform=(1,),
        init_lora_weights="gaussian",
    )
    config = model.peft_model.peft_config[ACQUIRED]
    assert (config.r, config.lora_alpha, config.use_rslora) == (3, 5, True)
    assert config.lora_dropout == 0.25
    assert config.init_lora_weights == "gaussian"
    assert config.base_model_name_or_path == base.located.written
    assert [name for name, _ in model.deltas(ACQUIRED)] == [
        "base_model.model.model.layers.1.self_attn.q_proj",
        "base_model.model.model.layers.1.mlp.up_proj",
    ]


def test_a_layer_that_is_not_there_is_refused_with_those_that_are(base: Base) -> None:
    with pytest.raises(AdapterError) as caught:
        adapt(base, target_modules=("query",))
    assert caught.value.where == "adapter"
    assert "q_proj" in (caught.value.remedy or "")
    assert "lm_head" not in (caught.value.remedy or "")


@pytest.mark.parametrize("module", ["lm_head", "embed_tokens"])
def test_an_adapter_on_the_vocabulary_is_refused(base: Base, module: str) -> None:
    with pytest.raises(AdapterError, match="carry an adapter") as caught:
        adapt(base, target_modules=("q_proj", module))
    assert caught.value.where == "adapter.target_modules"


def test_all_linear_leaves_the_output_projection_out(base: Base) -> None:
    model = adapt(base, target_modules="all-linear")
    adapted = {name.rpartition(".")[2] for name, _ in model.deltas(ACQUIRED)}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert not isinstance(base.model.get_output_embeddings(), LoraLayer)


def test_linear_layer_names(tiny_llama: Path) -> None:
    assert linear_layer_names(load(tiny_llama, "nf4").model) == sorted(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )


def test_deltas_are_scaling_times_b_a(base: Base) -> None:
    model = adapt(base, r=4, lora_alpha=6, target_modules=("k_proj",))
    teach(model)
    parameters = model.trained_parameters()
    for name, delta in model.deltas(ACQUIRED):
        a = parameters[f"{name}.lora_A.{ACQUIRED}.weight"]
        b = parameters[f"{name}.lora_B.{ACQUIRED}.weight"]
        torch.testing.assert_close(delta, 1.5 * b @ a)


def test_a_saved_adapter_comes_back_frozen_with_the_same_effect(
    base: Base, tiny_llama: Path, tmp_path: Path
) -> None:
    model = adapt(base)
    teach(model)
    base.model.eval()
    save_acquired(model, ACQUIRED, tmp_path / "a")
    loaded = AdaptedModel.with_adapter_from(load(tiny_llama), tmp_path / "a")
    assert torch.equal(hidden(loaded), hidden(model))
    assert not loaded.trained_parameters()
    assert [name for name, _ in loaded.deltas(NEGATED)]


def test_adapters_come_and_go_on_one_base(base: Base, other_llama: Path, tmp_path: Path) -> None:
    first = adapt(base)
    base.model.eval()
    off = hidden(first)
    teach(first, seed=1)
    on_first = hidden(first)
    second = adapt(load(other_llama))
    teach(second, seed=2)
    save_acquired(second, ACQUIRED, tmp_path / "second")

    first.load_adapter(tmp_path / "second", NEGATED)
    on_second = hidden(first)  # the newcomer is the active one
    assert not torch.equal(on_second, on_first)
    assert not first.trained_parameters()
    first.delete_adapter(ACQUIRED)
    assert torch.equal(hidden(first), on_second)
    assert not list(first.deltas(ACQUIRED))
    with first.reference_mode():
        assert torch.equal(hidden(first), off)


# What the losses see


def test_answer_states_predict_the_answer_tokens(base: Base) -> None:
    model = adapt(base)
    base.model.eval()
    batch = make_batch(base, ("Hi", "One two"), ("Name a colour, please", "Red"))
    hidden_ND = model.answer_states(batch)
    expected_NV = logits_of(base.model, batch.input_ids).flatten(0, 1)[batch.sources]
    with torch.no_grad():
        torch.testing.assert_close(base.head.logits(hidden_ND), expected_NV, rtol=1e-4, atol=1e-5)


def test_padding_on_the_right_changes_no_answer(base: Base) -> None:
    model = adapt(base)
    base.model.eval()
    short, long = ("Hi", "Yes"), ("Name as many colours as you can", "Red, green, blue and more")
    with torch.no_grad():
        alone_ND = model.answer_states(make_batch(base, short))
        together_ND = model.answer_states(make_batch(base, short, long))
    torch.testing.assert_close(together_ND[: len(alone_ND)], alone_ND, rtol=1e-4, atol=1e-5)


def test_a_taught_adapter_has_a_divergence(base: Base) -> None:
    # Or all the zeros above would say nothing.
    model = adapt(base)
    teach(model, std=0.2)
    batch = make_batch(base)
    with torch.no_grad():
        hidden_ND = model.answer_states(batch)
        with model.reference_mode():
            reference_ND = model.answer_states(batch)
    assert token_kl(hidden_ND, reference_ND, base.head).mean() > 0.05


def test_tied_embeddings_are_supported(tmp_path: Path) -> None:
    base = load(save_model(tmp_path, llama_config(tie_word_embeddings=True)), "nf4")
    assert base.head.weight_VD is base.model.get_input_embeddings().weight
    model = adapt(base)
    teach(model)
    assert len(list(model.deltas(ACQUIRED))) == 14


def test_all_linear_can_be_limited_to_some_layers(base):
    section = AdapterSection(r=2, layers_to_transform=(1,))
    model = AdaptedModel.with_new_adapter(base, section, seed=0)
    adapted = {path for path, _ in model.deltas(ACQUIRED)}
    assert len(adapted) == 7
    assert all(".layers.1." in path for path in adapted)
