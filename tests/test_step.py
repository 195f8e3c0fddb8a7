"""One optimizer step: its gradient is that of the plain joint loss, however it is cut."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import adapt, load, make_encoder, teach
from torch import Tensor
from torch.nn import functional

from lora_sku.base_checks import Packing
from lora_sku.data import StepDraw
from lora_sku.model import AdaptedModel
from lora_sku.recipe import LossesSection
from lora_sku.step import StepGradients, StepLosses

DRAW = StepDraw(
    forget=(("How?", "Well."), ("Why is that so?", "Because."), ("Who?", "Me, and then some.")),
    random=(
        (("How?", "Sit on it."), ("How?", "Leave it")),
        (("Why is that so?", "In the rain."), ("Why is that so?", "A")),
        (("Who?", "Sit on the kite."), ("Who?", "No one at all")),
    ),
    retain=(
        ("What colour is snow?", "White."),
        ("And coal?", "It is black."),
        ("Mud?", "Brown"),
        ("Grass?", "Green, mostly."),
    ),
)
LOSSES = {
    "guided_distortion": {"weight": 2.5},
    "random_disassociation": {"weight": 1.5, "responses": 2},
    "preservation_divergence": {"weight": 0.75},
}


@pytest.fixture
def model(tiny_llama: Path) -> AdaptedModel:
    return make_model(tiny_llama)


def make_model(folder: Path, quantization: str = "none") -> AdaptedModel:
    adapted = adapt(load(folder, quantization))
    teach(adapted, std=0.1)
    return adapted


def losses(**changes: dict[str, Any]) -> LossesSection:
    return LossesSection(**{key: LOSSES[key] | changes.get(key, {}) for key in LOSSES})


def accumulate(
    model: AdaptedModel, section: LossesSection, size: int = 2, draw: StepDraw = DRAW, **keys: Any
) -> tuple[StepLosses, dict[str, Tensor]]:
    """The step's losses and gradients, from clean gradients."""
    parameters = model.trained_parameters()
    for parameter in parameters.values():
        parameter.grad = None
    step = StepGradients(
        model, make_encoder(model.base), section, size, torch.Tensor.backward, **keys
    )
    result = step.accumulate(draw)
    return result, {n: p.grad for n, p in parameters.items() if p.grad is not None}


def assert_same_gradients(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    assert actual
    for name, gradient in expected.items():
        scale = float(gradient.abs().max())
        assert scale > 0
        torch.testing.assert_close(actual[name], gradient, rtol=1e-3, atol=1e-4 * scale)


def plain_logits(model: AdaptedModel, pair: tuple[str, str]) -> tuple[Tensor, Tensor]:
    """transformers' own logits that predict one answer, row by row, and the answer's tokens."""
    encoded = make_encoder(model.base).encode(*pair)
    ids_T = torch.tensor(encoded.input_ids)
    logits_TV = model.base.model(input_ids=ids_T[None]).logits[0]
    return logits_TV[encoded.prompt_length - 1 : -1], ids_T[encoded.prompt_length :]


def mean_nll(model: AdaptedModel, pairs: list[tuple[str, str]]) -> Tensor:
    found = [plain_logits(model, pair) for pair in pairs]
    logits_NV, targets_N = torch.cat([f[0] for f in found]), torch.cat([f[1] for f in found])
    return functional.cross_entropy(logits_NV, targets_N)


def mean_kl(model: AdaptedModel, pairs: list[tuple[str, str]]) -> Tensor:
    log_p_NV = torch.cat([plain_logits(model, pair)[0] for pair in pairs]).log_softmax(-1)
    with torch.no_grad(), model.peft_model.disable_adapter():
        log_reference_NV = torch.cat([plain_logits(model, p)[0] for p in pairs]).log_softmax(-1)
    return functional.kl_div(log_p_NV, log_reference_NV, log_target=True, reduction="batchmean")


@pytest.mark.parametrize("size", [1, 2, 8])
def test_the_gradient_is_that_of_the_plain_joint_loss(model: AdaptedModel, size: int) -> None:
    gd = mean_nll(model, list(DRAW.forget))
    rd = mean_nll(model, [pair for pairs in DRAW.random for pair in pairs])
    pd = mean_kl(model, list(DRAW.retain))
    parameters = model.trained_parameters()
    joint = 2.5 * gd + 1.5 * rd + 0.75 * pd
    expected = dict(
        zip(parameters, torch.autograd.grad(joint, list(parameters.values())), strict=True)
    )
    result, actual = accumulate(model, losses(), size)
    assert_same_gradients(actual, expected)
    assert result.guided_distortion == pytest.approx(gd.item(), rel=1e-4)
    assert result.random_disassociation == pytest.approx(rd.item(), rel=1e-4)
    assert result.preservation_divergence == pytest.approx(pd.item(), rel=1e-3)
    assert result.loss == pytest.approx(joint.item(), rel=1e-4)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_one_by_eight_is_eight_by_one(tiny_llama: Path, quantization: str) -> None:
    draw = StepDraw(
        forget=tuple((f"How {i}?", f"Well {'so ' * i}.") for i in range(8)),
        random=tuple(((f"How {i}?", "x" * (i + 1)), (f"How {i}?", "No.")) for i in range(8)),
        retain=tuple((f"What {i}?", f"That {'and that ' * i}") for i in range(8)),
    )
    model = make_model(tiny_llama, quantization)
    whole, expected = accumulate(model, losses(), 8, draw)
    for size in (1, 3):
        cut, actual = accumulate(model, losses(), size, draw)
        assert_same_gradients(actual, expected)
        assert cut.loss == pytest.approx(whole.loss, rel=1e-5)
        assert cut.answer_tokens == whole.answer_tokens


@pytest.mark.parametrize("size", [1, 2, 8])
def test_packed_and_padded_rows_give_the_same_gradient(model: AdaptedModel, size: int) -> None:
    packed, expected = accumulate(model, losses(), size)
    padded, actual = accumulate(without_packing(model), losses(), size)
    assert_same_gradients(actual, expected)
    assert padded.answer_tokens == packed.answer_tokens
    for name, value in packed.terms().items():
        assert padded.terms()[name] == pytest.approx(value, rel=1e-4)


def without_packing(model: AdaptedModel) -> AdaptedModel:
    base = replace(model.base, packing=Packing("not this one"))
    return AdaptedModel(base, model.peft_model)


def test_a_prompt_is_computed_once_for_all_its_answers(model: AdaptedModel) -> None:
    encoder = make_encoder(model.base)
    prompts = [len(encoder.prompt_ids(prompt)[0]) for prompt, _ in DRAW.forget]
    answers = [
        len(encoder.answer_ids(answer)[0]) - 1  # the last token is only a target
        for (_, own), others in zip(DRAW.forget, DRAW.random, strict=True)
        for answer in (own, *(other for _, other in others))
    ]
    shapes = shapes_seen(model, size=8)
    assert shapes[0] == (1, sum(prompts) + sum(answers))
    assert len(shapes) == 3  # forget, theta_o's retain, retain


def test_padded_rows_of_like_length_stand_together(model: AdaptedModel) -> None:
    shapes = shapes_seen(without_packing(model), size=1)
    forget, retain = shapes[:3], shapes[3::2]
    assert {rows for rows, _ in forget} == {3}  # the own answer and k = 2 others
    assert [width for _, width in forget] == sorted(width for _, width in forget)
    assert [width for _, width in retain] == sorted(width for _, width in retain)


def shapes_seen(model: AdaptedModel, size: int) -> list[tuple[int, ...]]:
    """(B, T) of every pass of one step, in order."""
    shapes: list[tuple[int, ...]] = []
    hidden_states = model.hidden_states

    def spy(input_ids_BT: Tensor, tree: Any = None) -> Tensor:
        shapes.append(tuple(input_ids_BT.shape))
        return hidden_states(input_ids_BT, tree)

    model.hidden_states = spy  # type: ignore[method-assign]
    accumulate(model, losses(), size)
    return shapes


def test_a_sliding_window_shorter_than_a_pair_takes_padded_rows(model: AdaptedModel) -> None:
    base = replace(model.base, packing=Packing(None, longest=5))
    shapes = shapes_seen(AdaptedModel(base, model.peft_model), size=8)
    assert shapes[0][0] == 9


def test_kept_reference_states_give_the_same_gradient(model: AdaptedModel, tmp_path: Path) -> None:
    expected_losses, expected = accumulate(model, losses())
    for _ in range(2):  # filled, then read
        result, actual = accumulate(model, losses(), reference_cache=tmp_path)
        assert result == expected_losses
        for name, gradient in expected.items():
            assert torch.equal(actual[name], gradient)
    # theta_o's states are read, not computed: what is kept decides.
    for file in tmp_path.rglob("*.safetensors"):
        kept = load_file(file)
        save_file({name: 2 * value for name, value in kept.items()}, file)
    result, _ = accumulate(model, losses(), reference_cache=tmp_path)
    assert result.preservation_divergence != expected_losses.preservation_divergence


def test_checkpointing_on_is_checkpointing_off(model: AdaptedModel) -> None:
    model.base.model.train()
    _, expected = accumulate(model, losses())
    model.base.model.activation_checkpointing_enable({"use_reentrant": False})
    _, actual = accumulate(model, losses())
    assert_same_gradients(actual, expected)


@pytest.mark.parametrize("term", LOSSES)
def test_a_term_that_weighs_0_is_not_computed(
    model: AdaptedModel, monkeypatch: pytest.MonkeyPatch, term: str
) -> None:
    whole, _ = accumulate(model, losses())

    def never(*_: object, **__: object) -> None:
        raise AssertionError(f"{term} was computed")

    monkeypatch.setattr(f"lora_sku.step.{term}", never)
    result, _ = accumulate(model, losses(**{term: {"weight": 0}}))
    assert getattr(result, term) is None
    assert term not in result.terms()
    assert set(result.terms()) == LOSSES.keys() - {term}
    assert result.loss == pytest.approx(
        whole.loss - LOSSES[term]["weight"] * whole.terms()[term], rel=1e-4
    )
    assert result.answer_tokens < whole.answer_tokens


def test_each_term_is_weighed_and_back_propagated_by_itself(model: AdaptedModel) -> None:
    _, whole = accumulate(model, losses())
    parts = []
    for term in ("guided_distortion", "random_disassociation"):
        others = {other: {"weight": 0} for other in LOSSES if other != term}
        parts.append(accumulate(model, losses(**others))[1])
    # A recipe with preservation alone is refused, so it comes as what is missing.
    _, rest = accumulate(model, losses(preservation_divergence={"weight": 1.5}))
    preserved = {name: rest[name] - whole[name] for name in whole}  # 0.75 more of it
    summed = {name: parts[0][name] + parts[1][name] + preserved[name] for name in whole}
    assert_same_gradients(summed, whole)


def test_gradients_add_up_on_those_that_are_there(model: AdaptedModel) -> None:
    _, once = accumulate(model, losses())
    once = {name: gradient.clone() for name, gradient in once.items()}
    step = StepGradients(model, make_encoder(model.base), losses(), 2, torch.Tensor.backward)
    step.accumulate(DRAW)
    twice = {n: p.grad for n, p in model.trained_parameters().items() if p.grad is not None}
    assert_same_gradients(twice, {name: 2 * gradient for name, gradient in once.items()})


def test_diverge_turns_the_preservation_gradient_round(model: AdaptedModel) -> None:
    def preservation_part(**settings: Any) -> tuple[StepLosses, dict[str, Tensor]]:
        _, without = accumulate(model, losses(preservation_divergence={"weight": 0}))
        without = {name: gradient.clone() for name, gradient in without.items()}
        result, whole = accumulate(model, losses(preservation_divergence=settings))
        return result, {name: whole[name] - without[name] for name in whole}

    preserve, towards = preservation_part()
    diverge, away = preservation_part(direction="diverge", bound=1e6)
    assert_same_gradients(away, {name: -gradient for name, gradient in towards.items()})
    assert diverge.preservation_divergence == pytest.approx(preserve.preservation_divergence)
    assert preserve.loss - diverge.loss == pytest.approx(
        2 * 0.75 * (preserve.preservation_divergence or 0), rel=1e-3
    )
    _, beyond = preservation_part(direction="diverge", bound=1e-9)
    assert not any(gradient.any() for gradient in beyond.values())


def test_at_theta_o_the_preservation_has_no_gradient(tiny_llama: Path) -> None:
    model = adapt(load(tiny_llama))
    _, without = accumulate(model, losses(preservation_divergence={"weight": 0}))
    without = {name: gradient.clone() for name, gradient in without.items()}
    result, whole = accumulate(model, losses())
    assert result.preservation_divergence == 0
    assert all(torch.equal(whole[name], without[name]) for name in whole)


def test_answer_tokens_are_counted_in_every_term(model: AdaptedModel) -> None:
    encoder = make_encoder(model.base)
    pairs = [*DRAW.forget, *(p for ps in DRAW.random for p in ps), *DRAW.retain]
    expected = sum(encoder.answer_length(answer) for _, answer in pairs)
    result, _ = accumulate(model, losses())
    assert result.answer_tokens == expected
