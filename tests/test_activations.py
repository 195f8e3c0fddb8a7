"""What adapted layers read: theta_o's own inputs, at the drawn places, once for each tensor."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES
from tiny import FORGET, RETAIN, adapt, load, make_encoder, save_model, teach
from torch import Tensor

from lora_sku import activations, projection
from lora_sku.activations import InputSample, Texts, draw_texts, sample_inputs, shared_inputs
from lora_sku.data import Row
from lora_sku.errors import AdapterError
from lora_sku.model import AdaptedModel, Base

FORGET_ROWS = [Row(prompt, answers) for prompt, answers in FORGET.items()]
RETAIN_ROWS = [Row(prompt, answers) for prompt, answers in RETAIN.items()]
ALL = 10**6


def draw(base: Base, **keys: int) -> tuple[Texts, Texts]:
    settings = {"prompts": 5, "tokens": 40, "seed": 0, **keys}
    return draw_texts(FORGET_ROWS, [RETAIN_ROWS], make_encoder(base), **settings)


def samples(model: AdaptedModel, *, rows: int = 3, **keys: int) -> dict[str, InputSample]:
    taken = sample_inputs(model, *draw(model.base, **keys), rows=rows)
    return {module: sample for sample in taken for module in sample.modules}


@torch.no_grad()
def true_inputs(folder: Path, path: str, texts: Texts) -> Tensor:
    """What one layer of the plain base reads, text by text."""
    model = load(folder).model
    seen: list[Tensor] = []
    model.get_submodule(path).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for ids in texts.ids:
        model(input_ids=torch.tensor([ids]), use_cache=False)
    return torch.stack([seen[text][0, place] for text, place in texts.drawn])


# The draw


def test_all_positions_after_the_common_start_are_drawn_if_there_is_room(base: Base) -> None:
    forget, retain = draw(base, prompts=ALL, tokens=ALL)
    assert len(forget.ids) == len(FORGET_ROWS)
    start = forget.drawn[0][1]
    assert len({text[:start] for text in (*forget.ids, *retain.ids)}) == 1
    assert len({text[start] for text in (*forget.ids, *retain.ids)}) > 1
    places = {(n, p) for n, text in enumerate(forget.ids) for p in range(start, len(text))}
    assert set(forget.drawn) == places
    # Retain takes the common start once.
    places = {(n, p) for n, text in enumerate(retain.ids) for p in range(start, len(text))}
    assert set(retain.drawn) == places | {(0, p) for p in range(start)}


def test_the_draw_keeps_to_its_limits_and_depends_on_the_seed_alone(base: Base) -> None:
    forget, retain = first = draw(base)
    assert len(forget.ids) == len(retain.ids) == 5
    assert len(set(forget.drawn)) == len(set(retain.drawn)) == 40
    assert draw(base) == first
    assert draw(base, seed=1) != first
    retain = draw(base, tokens=4)[1]
    start = forget.drawn[0][1]
    assert [place < start for _, place in retain.drawn].count(True) == 2  # of 4


def test_every_set_of_the_retain_side_gives_as_many_positions(base: Base) -> None:
    large, small = RETAIN_ROWS[:8], RETAIN_ROWS[8:9]
    sets, encoder = [large, small], make_encoder(base)
    settings = {"prompts": ALL, "seed": 0}
    _, retain = draw_texts(FORGET_ROWS, sets, encoder, tokens=ALL, **settings)
    assert len(retain.ids) == 9
    expected = {encoder.encode(row.prompt, a).input_ids[:-1] for row in small for a in row.answers}
    assert {retain.ids[8]} <= expected
    start = next(place for n, place in retain.drawn if n > 0)
    frame = [(0, place) for place in range(start)]
    drawn = [position for position in retain.drawn if position not in frame]
    of_small = [place for n, place in drawn if n == 8]
    of_large = [position for position in drawn if position[0] < 8]
    assert len(of_small) == len(of_large) == len(set(of_large))
    # All that the small set has, again and again, none twice as often as another.
    times = Counter(of_small)
    assert set(times) == set(range(start, len(retain.ids[8])))
    assert max(times.values()) - min(times.values()) <= 1
    # Where there is less room, it is shared.
    _, retain = draw_texts(FORGET_ROWS, sets, encoder, tokens=2 * start + 10, **settings)
    texts = [n for n, place in retain.drawn if place >= start]
    assert (len([n for n in texts if n < 8]), texts.count(8)) == ((start + 10) // 2,) * 2


def test_a_texts_last_token_is_a_target_and_not_read(base: Base) -> None:
    encoder = make_encoder(base)
    forget, _ = draw(base, prompts=ALL)
    whole = {encoder.encode(row.prompt, a).input_ids for row in FORGET_ROWS for a in row.answers}
    assert set(forget.ids) <= {ids[:-1] for ids in whole}


# The inputs


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_the_inputs_are_the_plain_bases(tiny_llama: Path, rows: int) -> None:
    model = adapt(load(tiny_llama))
    teach(model, std=0.5)  # so that an adapter left on would show
    forget, retain = draw(model.base)
    taken = samples(model, rows=rows)
    for path in ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"):
        sample = taken[path]
        torch.testing.assert_close(sample.forget_PI, true_inputs(tiny_llama, path, forget))
        torch.testing.assert_close(sample.retain_PI, true_inputs(tiny_llama, path, retain))


def test_layers_that_read_the_same_tensor_share_a_sample(base: Base) -> None:
    shared = shared_inputs(adapt(base))
    short = [{path.rpartition(".")[2] for path in s.modules} for s in shared]
    assert (
        short
        == [
            {"q_proj", "k_proj", "v_proj"},
            {"o_proj"},
            {"gate_proj", "up_proj"},
            {"down_proj"},
        ]
        * 2
    )
    assert [s.features for s in shared] == [64, 64, 64, 128] * 2


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_can_be_sampled(name: str, tmp_path: Path) -> None:
    model = adapt(load(save_model(tmp_path, ARCHITECTURES[name])))
    shared = [path for each in shared_inputs(model) for path in each.modules]
    adapted = {path.removeprefix("base_model.model.") for path, _ in model.deltas("acquired")}
    assert len(shared) == len(adapted)
    assert samples(model).keys() == set(shared) == adapted


def test_only_adapted_layers_count(base: Base) -> None:
    model = adapt(base, target_modules=["v_proj", "up_proj"], layers_to_transform=[1])
    modules = [s.modules for s in shared_inputs(model)]
    assert modules == [("model.layers.1.self_attn.v_proj",), ("model.layers.1.mlp.up_proj",)]


def test_a_shared_input_is_collected_once(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    hooked: list[str] = []
    real = activations._hooks

    def spy(layers: Any, tell: Any) -> Any:
        hooked.extend(layers)
        return real(layers, tell)

    model = adapt(base)
    shared = shared_inputs(model)
    monkeypatch.setattr(activations, "shared_inputs", lambda _: shared)
    monkeypatch.setattr(activations, "_hooks", spy)
    samples(model, rows=100)
    assert sorted(hooked) == sorted(2 * [s.modules[0] for s in shared])  # forget and retain


def test_groups_change_nothing_but_what_is_held(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapt(base)
    at_once = samples(model)
    monkeypatch.setattr(projection, "GROUP_BYTES", 80 * 64 * 4 * 2)  # two narrow inputs
    passes = 0
    real = activations._collect

    def counted(*args: Any) -> Any:
        nonlocal passes
        passes += 1
        return real(*args)

    monkeypatch.setattr(activations, "_collect", counted)
    piecewise = samples(model)
    assert passes == 2 * 2 * 3  # in either layer, for either set: q with o, gate, down
    for path, sample in at_once.items():
        assert torch.equal(piecewise[path].forget_PI, sample.forget_PI)
        assert torch.equal(piecewise[path].retain_PI, sample.retain_PI)


def test_a_pass_ends_at_the_last_layer_of_its_group(base: Base) -> None:
    model = adapt(base, layers_to_transform=[0])
    seen: list[str] = []
    layer = model.base.model.get_submodule("model.layers.1")
    layer.register_forward_pre_hook(lambda *_: seen.append("above"))
    shared_inputs(model)
    assert seen == ["above"]
    samples(model)
    assert seen == ["above", "above"]  # by the probe again, by no pass over the texts


def test_the_adapter_is_back_on_afterwards_and_no_hook_is_left(base: Base) -> None:
    model = adapt(base)
    teach(model)
    ids = torch.arange(8)[None]
    hooks = hooks_of(model)
    with torch.no_grad():
        before = model.hidden_states(ids)
        samples(model)
        assert torch.equal(model.hidden_states(ids), before)
    assert hooks_of(model) == hooks


def hooks_of(model: AdaptedModel) -> list[int]:
    return [len(module._forward_pre_hooks) for module in model.base.model.modules()]


def test_a_layer_that_reads_only_some_tokens_is_refused(base: Base) -> None:
    model = adapt(base)
    mlp = model.base.model.get_submodule("model.layers.1.mlp")
    real = mlp.forward
    mlp.forward = lambda x: torch.cat([real(x[:, :1]), x[:, 1:]], 1)  # as a routed expert
    with pytest.raises(AdapterError, match=r"layers\.1\.mlp\.gate_proj does not read every"):
        shared_inputs(model)
