"""Passes that begin above the trunk give the same numbers, and fall back where they cannot."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import FORGET, adapt, load, make_encoder, teach

from lora_sku import frozen_trunk as module
from lora_sku import likelihood
from lora_sku.adapters import save_acquired
from lora_sku.data import Row
from lora_sku.frozen_trunk import frozen_trunk
from lora_sku.likelihood import AnswerScorer
from lora_sku.model import ACQUIRED, AdaptedModel

ROWS = tuple(Row(prompt, answers) for prompt, answers in FORGET.items())


def adapted(folder: Path, *layers: int) -> AdaptedModel:
    model = adapt(load(folder), layers_to_transform=layers or None)
    teach(model, std=0.2)
    model.peft_model.eval()
    return model


def scorer(model: AdaptedModel) -> AnswerScorer:
    return AnswerScorer(model, make_encoder(model.base), ROWS, pairs_at_once=4)


def layers_of(model: AdaptedModel) -> Any:
    return model.base.model.get_decoder().layers


@contextmanager
def counted(layer: torch.nn.Module) -> Iterator[list[None]]:
    """How often a layer's mlp runs."""
    runs: list[None] = []
    handle = layer.mlp.register_forward_hook(lambda *_: runs.append(None))
    yield runs
    handle.remove()


@pytest.mark.parametrize("packs", [True, False])
def test_the_same_scores_without_the_layers_below(
    calm_llama: Path, packs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapted(calm_llama, 1)
    if not packs:
        object.__setattr__(model.base.packing, "refused", "for this test")
    short = scorer(model)
    with counted(layers_of(model)[0]) as below, counted(layers_of(model)[1]) as above:
        found = short.score()
    assert not below
    assert above
    monkeypatch.setattr(likelihood, "frozen_trunk", lambda _: None)
    whole = scorer(model)
    with counted(layers_of(model)[0]) as below:
        assert whole.score() == found  # to the last bit
    assert below
    assert short.base == whole.base


def test_a_model_that_is_adapted_from_its_first_layer_on_has_none(calm_llama: Path) -> None:
    assert frozen_trunk(adapted(calm_llama)) is None
    assert frozen_trunk(adapted(calm_llama, 0)) is None


def test_layers_are_their_own_again_afterwards(calm_llama: Path) -> None:
    model = adapted(calm_llama, 1)
    lowest = layers_of(model)[0]
    before = lowest.forward

    def wrapped(*args: Any, **keys: Any) -> Any:
        return before(*args, **keys)

    scorer(model).score()
    assert "forward" not in vars(lowest)
    lowest.forward = wrapped  # as accelerate does
    scorer(model).score()
    assert lowest.forward is wrapped


def test_an_adapter_that_is_loaded_below_later_is_scored_as_well(
    calm_llama: Path, tmp_path: Path
) -> None:
    save_acquired(adapted(calm_llama), ACQUIRED, tmp_path / "everywhere")
    model = adapted(calm_llama, 1)
    kept = scorer(model)
    model.load_adapter(tmp_path / "everywhere", "everywhere")
    fresh = AdaptedModel.with_adapter_from(load(calm_llama), tmp_path / "everywhere")
    fresh.peft_model.eval()
    assert kept.score().nll == pytest.approx(scorer(fresh).score().nll, rel=1e-6)


@pytest.mark.parametrize("how", ["silently", "loudly"])
def test_layers_that_hand_each_other_more_than_states_are_found_out(
    calm_llama: Path, how: str
) -> None:
    model = adapted(calm_llama, 1)
    assert frozen_trunk(model) is not None
    handed: dict[str, torch.Tensor] = {}
    lower, upper = layers_of(model)

    def hand(_: Any, __: Any, output: torch.Tensor) -> None:
        handed["mean"] = output.mean()

    def take(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        if how == "silently":
            return output + handed.pop("mean", 0.0)
        return output + handed.pop("mean")

    hooks = [lower.mlp.register_forward_hook(hand), upper.register_forward_hook(take)]
    assert frozen_trunk(model) is None
    for hook in hooks:
        hook.remove()


def test_layers_that_return_more_than_states_are_left_alone(calm_llama: Path) -> None:
    model = adapted(calm_llama, 1)
    trunk = module.FrozenTrunk([layers_of(model)[0]])
    with trunk.watched() as left:
        model.hidden_states(torch.tensor([[1, 2, 3]]))
    assert [tuple(states.shape) for states in left] == [(1, 3, 64)]
    hook = layers_of(model)[0].register_forward_hook(lambda _, __, output: (output, None))
    back = layers_of(model)[1].register_forward_pre_hook(lambda _, args: (args[0][0],))
    assert frozen_trunk(model) is None
    hook.remove()
    back.remove()
