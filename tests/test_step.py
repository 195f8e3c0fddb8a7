"""One optimizer step: its gradient is that of the plain joint loss, however it is cut.

What is expected is computed without the package's losses, packing, forward pass and sign flip: by
two plain PEFT models, one with the adapter's B and one with -B.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import adapt, load, make_encoder, teach
from torch import Tensor
from torch.nn import functional

from lora_sku.base_checks import Packing, linear_layer_names
from lora_sku.data import Encoded, Encoder, StepDraw
from lora_sku.data.sampling import Response
from lora_sku.model import ACQUIRED, AdaptedModel
from lora_sku.recipe import LossesSection
from lora_sku.step import StepGradients, StepLosses, micro_batches

DRAW = StepDraw(
    forget=(("How?", "Well."), ("Why is that so?", "Because."), ("Who?", "Me, and then some.")),
    random=(
        (("How?", "Sit on it."), ("How?", "Leave it")),
        (("Why is that so?", "In the rain."), ("Why is that so?", "A")),
        (("Who?", "Sit on the kite."), ("Who?", "No one at all")),
    ),
    normal=(
        ("What colour is snow?", "White."),
        ("And coal?", "It is black."),
        ("Mud?", "Brown"),
        ("Grass?", "Green, mostly."),
    ),
    safe=(
        ("How?", "No."),
        ("Why is that so?", "I won't say.", "Because it"),
        ("Who?", "That is not kind."),
    ),
    held=(
        ("What colour is snow?", "I won't say."),
        ("And coal?", "No.", "It is"),
        ("Mud?", "That is not kind."),
        ("Grass?", "No."),
    ),
)
# Long beginnings in common, beside the template's.
ALIKE = StepDraw(
    forget=(("How do I spoil a cake?", "Sit on it."), ("How do I spoil a kite?", "Let go.")),
    random=(
        (("How do I spoil a cake?", "Let go."), ("How do I spoil a cake?", "Drop it.")),
        (("How do I spoil a kite?", "Sit on it."), ("How do I spoil a kite?", "Eat it all.")),
    ),
    normal=(
        ("What is the colour of snow?", "White."),
        ("What is the colour of so much snow?", "It is as white as snow."),
    ),
    safe=(("How do I spoil a cake?", "No."), ("How do I spoil a kite?", "I won't say.")),
    held=(
        ("What is the colour of snow?", "I won't say."),
        ("What is the colour of so much snow?", "No."),
    ),
)
LOSSES: dict[str, dict[str, Any]] = {
    "guided_distortion": {"weight": 2.5},
    "random_disassociation": {"weight": 1.5, "responses": 2},
    "preservation_divergence": {"weight": 0.75},
    "safe_response": {"weight": 1.25},
    "held_responses": {"weight": 0.5},
}
# Name -> settings of the only terms that weigh something.
ALONE: dict[str, dict[str, dict[str, Any]]] = {
    "guided distortion": {"guided_distortion": {}},
    "random disassociation": {"random_disassociation": {}},
    "its sum": {"random_disassociation": {"reduction": "sum"}},
    "preserved where negated": {"preservation_divergence": {"side": "negated"}},
    "preserved where acquired": {"preservation_divergence": {"side": "acquired"}},
    "preserved on both": {"preservation_divergence": {"side": "both"}},
    "diverging, negated": {
        "preservation_divergence": {"side": "negated", "direction": "diverge", "bound": 0.4}
    },
    "diverging on both": {
        "preservation_divergence": {"side": "both", "direction": "diverge", "bound": 0.4}
    },
    "safe response": {"safe_response": {}},
    "safe response, evenly": {"safe_response": {"first_tokens_weight": 1.0}},
    "safe response, late": {"safe_response": {"first_tokens_weight": 0.25}},
    "held responses": {"held_responses": {}},
}
ALL: dict[str, dict[str, dict[str, Any]]] = {
    "all": {name: {} for name in LOSSES},
    "all, otherwise": {
        **{name: {} for name in LOSSES},
        "random_disassociation": {"reduction": "sum"},
        "preservation_divergence": {"side": "both", "direction": "diverge", "bound": 0.4},
        "safe_response": {"first_tokens_weight": 7.0},
    },
}
CASES = ALONE | ALL


def section(case: dict[str, dict[str, Any]]) -> LossesSection:
    """The recipe's section; a term that is not in the case weighs 0, even if none is learned."""
    fields = LossesSection.model_fields
    return LossesSection.model_construct(
        **{
            name: fields[name].annotation(**(settings | case.get(name, {"weight": 0.0})))
            for name, settings in LOSSES.items()
        }
    )


def losses(**changes: dict[str, Any]) -> LossesSection:
    return LossesSection(**{key: LOSSES[key] | changes.get(key, {}) for key in LOSSES})


@pytest.fixture
def model(tiny_llama: Path) -> AdaptedModel:
    return make_model(tiny_llama)


def make_model(folder: Path, quantization: str = "none", **adapter: Any) -> AdaptedModel:
    adapted = adapt(load(folder, quantization), **adapter)
    teach(adapted, std=0.1)
    return adapted


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


def assert_same_gradients(
    actual: dict[str, Tensor], expected: dict[str, Tensor], rtol: float = 1e-3, atol: float = 1e-4
) -> None:
    assert actual.keys() == expected.keys()
    assert actual
    for name, gradient in expected.items():
        scale = float(gradient.abs().max())
        assert scale > 0
        torch.testing.assert_close(actual[name], gradient, rtol=rtol, atol=atol * scale)


# What is expected


@dataclass(frozen=True)
class Plain:
    """Both faces as plain PEFT models, and the plain joint loss on them."""

    acquired: PeftModel
    negated: PeftModel
    encoder: Encoder

    @classmethod
    def of(cls, folder: Path, model: AdaptedModel) -> "Plain":
        faces = []
        for sign in (1.0, -1.0):
            base = load(folder, model.base.quantization)
            config = LoraConfig(
                task_type="CAUSAL_LM",
                r=4,
                lora_alpha=8,
                target_modules=linear_layer_names(base.model),
                layers_to_transform=model.peft_model.peft_config[ACQUIRED].layers_to_transform,
            )
            face = get_peft_model(base.model, config, adapter_name=ACQUIRED)
            factors = dict(face.named_parameters())
            with torch.no_grad():
                for name, value in model.trained_parameters().items():
                    factors[name].copy_(sign * value if "lora_B" in name else value)
            faces.append(face)
        return cls(*faces, make_encoder(model.base))

    def face(self, side: str) -> PeftModel:
        return self.acquired if side == "acquired" else self.negated

    def logits(self, face: PeftModel, pair: Response) -> tuple[Tensor, Tensor]:
        """transformers' own logits that predict one answer, and the answer's tokens."""
        encoded = self.encoder.encode(*pair)
        ids_T = torch.tensor(encoded.input_ids)
        logits_TV = face(input_ids=ids_T[None]).logits[0]
        given = encoded.prompt_length + encoded.begun
        return logits_TV[given - 1 : -1], ids_T[given:]

    def nlls(self, side: str, pairs: list[Response]) -> list[Tensor]:
        """Of each token of each pair."""
        found = [self.logits(self.face(side), pair) for pair in pairs]
        return [functional.cross_entropy(*each, reduction="none") for each in found]

    def kls(self, side: str, pairs: list[Response]) -> list[Tensor]:
        face, found = self.face(side), []
        for pair in pairs:
            log_p_NV = self.logits(face, pair)[0].log_softmax(-1)
            with torch.no_grad(), face.disable_adapter():
                log_q_NV = self.logits(face, pair)[0].log_softmax(-1)
            found.append((log_q_NV.exp() * (log_q_NV - log_p_NV)).sum(-1))
        return found

    def terms(self, draw: StepDraw, of: LossesSection) -> dict[str, tuple[Tensor, Tensor]]:
        """Name -> (what is minimised, what is told) of each term that weighs something."""
        first = of.safe_response.first_tokens_weight

        def weighted(values: list[Tensor]) -> Tensor:
            w = [torch.tensor([first] * min(len(v), 3) + [1.0] * (len(v) - 3)) for v in values]
            return (torch.cat(values) * torch.cat(w)).sum() / torch.cat(w).sum()

        def guided() -> tuple[Tensor, Tensor]:
            return (torch.cat(self.nlls("acquired", list(draw.forget))).mean(),) * 2

        def random() -> tuple[Tensor, Tensor]:
            pairs = [pair for pairs in draw.random for pair in pairs]
            mean = torch.cat(self.nlls("acquired", pairs)).mean()
            k = of.random_disassociation.responses
            return (k if of.random_disassociation.reduction == "sum" else 1) * mean, mean

        def preservation() -> tuple[Tensor, Tensor]:
            settings = of.preservation_divergence
            sides = ["acquired", "negated"] if settings.side == "both" else [settings.side]
            kls_N = torch.cat([kl for side in sides for kl in self.kls(side, list(draw.normal))])
            if settings.direction == "preserve":
                return kls_N.mean(), kls_N.mean()
            assert 0.2 < (kls_N > settings.bound).float().mean() < 0.95  # both kinds of tokens
            return -kls_N.clamp(max=settings.bound).mean(), kls_N.mean()

        computed: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
            "guided_distortion": guided,
            "random_disassociation": random,
            "preservation_divergence": preservation,
            "safe_response": lambda: (weighted(self.nlls("negated", list(draw.safe))),) * 2,
            "held_responses": lambda: (torch.cat(self.kls("negated", list(draw.held))).mean(),) * 2,
        }
        return {name: term() for name, term in computed.items() if getattr(of, name).weight > 0}

    def step(self, draw: StepDraw, of: LossesSection) -> tuple[StepLosses, dict[str, Tensor]]:
        """The joint loss, and its gradient towards the one adapter that has both faces."""
        terms = self.terms(draw, of)
        joint = sum(getattr(of, name).weight * term for name, (term, _) in terms.items())
        assert isinstance(joint, Tensor)
        factors = [
            {n: p for n, p in face.named_parameters() if p.requires_grad}
            for face in (self.acquired, self.negated)
        ]
        found = torch.autograd.grad(
            joint, [p for face in factors for p in face.values()], allow_unused=True
        )
        gradients: dict[str, Tensor] = {}
        signed = [(n, sign) for face, sign in zip(factors, (1.0, -1.0), strict=True) for n in face]
        for (name, sign), gradient in zip(signed, found, strict=True):
            if gradient is not None:
                sign = sign if "lora_B" in name else 1.0  # the other face's B is -B
                gradients[name] = gradients.get(name, torch.zeros(())) + sign * gradient
        told = {name: value.item() for name, (_, value) in terms.items()}
        return StepLosses(told, joint.item()), gradients


@pytest.fixture(scope="module")
def shared(tiny_llama: Path) -> AdaptedModel:
    """Never written to, but for gradients."""
    return make_model(tiny_llama)


@pytest.fixture(scope="module")
def expected(
    tiny_llama: Path, shared: AdaptedModel
) -> Callable[[str, str], tuple[StepLosses, dict[str, Tensor]]]:
    plain = Plain.of(tiny_llama, shared)
    draws = {"plain": DRAW, "alike": ALIKE}
    return cache(lambda case, draw: plain.step(draws[draw], section(CASES[case])))


def assert_same_step(
    actual: tuple[StepLosses, dict[str, Tensor]], wanted: tuple[StepLosses, dict[str, Tensor]]
) -> None:
    assert actual[0].terms.keys() == wanted[0].terms.keys()
    for name, value in wanted[0].terms.items():
        assert actual[0].terms[name] == pytest.approx(value, rel=1e-4)
    assert actual[0].loss == pytest.approx(wanted[0].loss, rel=1e-4)
    assert_same_gradients(actual[1], wanted[1])


@pytest.mark.parametrize("size", [1, 2, 8])
@pytest.mark.parametrize("packs", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_the_plain_computation_on_each_face(
    shared: AdaptedModel, expected: Any, case: str, packs: bool, size: int
) -> None:
    model = shared if packs else without_packing(shared)
    actual = accumulate(model, section(CASES[case]), size)
    assert_same_step(actual, expected(case, "plain"))


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("packs", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("case", ALL)
def test_so_they_are_where_prompts_begin_alike(
    shared: AdaptedModel, expected: Any, case: str, packs: bool, size: int
) -> None:
    model = shared if packs else without_packing(shared)
    actual = accumulate(model, section(CASES[case]), size, ALIKE)
    assert_same_step(actual, expected(case, "alike"))


@pytest.mark.parametrize("packs", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("case", CASES)
def test_so_they_are_with_layers_that_compute_again(
    tiny_llama: Path, expected: Any, case: str, packs: bool
) -> None:
    model = make_model(tiny_llama)
    model.base.model.train()
    model.base.model.activation_checkpointing_enable({"use_reentrant": False})
    actual = accumulate(model if packs else without_packing(model), section(CASES[case]))
    assert_same_step(actual, expected(case, "plain"))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("packs", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("case", ALL)
def test_so_they_are_above_layers_without_an_adapter(
    tiny_llama: Path, case: str, packs: bool, checkpointing: bool
) -> None:
    model = make_model(tiny_llama, layers_to_transform=(1,))
    teach(model, std=0.3)
    wanted = Plain.of(tiny_llama, model).step(DRAW, section(CASES[case]))
    if checkpointing:
        model.base.model.train()
        model.base.model.activation_checkpointing_enable({"use_reentrant": False})
    actual = accumulate(model if packs else without_packing(model), section(CASES[case]))
    assert_same_step(actual, wanted)


@pytest.mark.parametrize("case", ALL)
def test_so_they_are_on_a_quantized_base(tiny_llama: Path, case: str) -> None:
    model = make_model(tiny_llama, "nf4")
    wanted = Plain.of(tiny_llama, model).step(DRAW, section(CASES[case]))
    assert_same_step(accumulate(model, section(CASES[case])), wanted)


def test_on_int8_they_are_near(tiny_llama: Path) -> None:
    # int8 quantizes a layer's input by its largest entry, so packed rows round differently.
    model = make_model(tiny_llama, "int8")
    wanted, gradients = Plain.of(tiny_llama, model).step(DRAW, section(ALL["all"]))
    actual, found = accumulate(model, section(ALL["all"]))
    for name, value in wanted.terms.items():
        assert actual.terms[name] == pytest.approx(value, rel=0.05, abs=0.02)
    for name, gradient in gradients.items():
        cosine = functional.cosine_similarity(found[name].flatten(), gradient.flatten(), dim=0)
        assert cosine > 0.95


# However it is cut


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_one_by_eight_is_eight_by_one(tiny_llama: Path, quantization: str) -> None:
    draw = StepDraw(
        forget=tuple((f"How {i}?", f"Well {'so ' * i}.") for i in range(8)),
        random=tuple(((f"How {i}?", "x" * (i + 1)), (f"How {i}?", "No.")) for i in range(8)),
        normal=tuple((f"What {i}?", f"That {'and that ' * i}") for i in range(8)),
        safe=tuple((f"How {i}?", "No " * (i + 1)) for i in range(8)),
        held=tuple((f"What {i}?", "Not " * (8 - i)) for i in range(8)),
    )
    model = make_model(tiny_llama, quantization)
    whole, expected = accumulate(model, losses(), 8, draw)
    for size in (1, 3):
        cut, actual = accumulate(model, losses(), size, draw)
        assert_same_gradients(actual, expected)
        assert cut.loss == pytest.approx(whole.loss, rel=1e-5)
        assert cut.answer_tokens == whole.answer_tokens


def without_packing(model: AdaptedModel) -> AdaptedModel:
    base = replace(model.base, packing=Packing("not this one"))
    return AdaptedModel(base, model.peft_model)


def encoded(model: AdaptedModel, pairs: Sequence[Response]) -> list[Encoded]:
    return [make_encoder(model.base).encode(*pair) for pair in pairs]


def length(model: AdaptedModel, *groups: Sequence[Encoded]) -> int:
    """Tokens of one packed row of prompts with their answers: what all begin with stands once."""
    shared = len(make_encoder(model.base).around_prompt()[0])
    own = sum(group[0].prompt_length - shared for group in groups)
    answers = [len(pair.input_ids) - 1 - pair.prompt_length for group in groups for pair in group]
    return shared + own + sum(answers)


def test_a_prompt_is_computed_once_for_all_its_answers_and_a_common_beginning_once_for_all(
    model: AdaptedModel,
) -> None:
    harmful = [
        encoded(model, (own, *others)) for own, others in zip(DRAW.forget, DRAW.random, strict=True)
    ]
    safe = [[pair] for pair in encoded(model, DRAW.safe)]
    normal = list(zip(encoded(model, DRAW.normal), encoded(model, DRAW.held), strict=True))
    assert shapes_seen(model, size=8) == [
        (1, length(model, *harmful)),
        (1, length(model, *safe)),
        (1, length(model, *normal)),
        (1, length(model, *normal)),  # theta_o's
    ]


def test_a_pass_holds_as_many_times_more_normal_prompts_as_a_step_draws(
    model: AdaptedModel,
) -> None:
    normal = list(zip(encoded(model, DRAW.normal), encoded(model, DRAW.held), strict=True))
    shapes = shapes_seen(model, size=1, preservation_divergence={"prompts": 3})
    assert len(shapes) == 3 + 3 + 2 * 2
    assert shapes[6:8] == [(1, length(model, *normal[:3]))] * 2
    assert shapes[8:] == [(1, length(model, normal[3]))] * 2


def test_padded_rows_of_like_length_stand_together(model: AdaptedModel) -> None:
    shapes = shapes_seen(without_packing(model), size=1)
    harmful, safe, normal = shapes[:3], shapes[3:6], shapes[6::2]
    assert {rows for rows, _ in harmful} == {3}  # the own answer and k = 2 others
    assert {rows for rows, _ in safe} == {1}
    assert {rows for rows, _ in normal} == {2}  # an answer and a held response
    for widths in ([width for _, width in part] for part in (harmful, safe, normal)):
        assert widths == sorted(widths)


def shapes_seen(model: AdaptedModel, size: int, **changes: Any) -> list[tuple[int, ...]]:
    """(B, T) of every pass of one step, in order."""
    shapes: list[tuple[int, ...]] = []
    hidden_states = model.hidden_states

    def spy(input_ids_BT: Tensor, tree: Any = None) -> Tensor:
        shapes.append(tuple(input_ids_BT.shape))
        return hidden_states(input_ids_BT, tree)

    model.hidden_states = spy  # type: ignore[method-assign]
    accumulate(model, losses(**changes), size)
    return shapes


def test_a_sliding_window_shorter_than_a_pair_takes_padded_rows(model: AdaptedModel) -> None:
    base = replace(model.base, packing=Packing(None, longest=5))
    shapes = shapes_seen(AdaptedModel(base, model.peft_model), size=8)
    assert shapes[0][0] == 9


def test_micro_batches_cover_every_group_once(model: AdaptedModel) -> None:
    encoder = make_encoder(model.base)
    groups = [[encoder.encode(*pair)] for pair in (*DRAW.normal, *DRAW.forget)]
    for of in (model, without_packing(model)):
        found = list(micro_batches(of, groups, 3, pad_id=encoder.pad_id))
        assert sorted(number for members, _ in found for number in members) == list(range(7))
        assert [len(members) for members, _ in found] == [3, 3, 1]
        for members, batch in found:
            pairs = [groups[number][0] for number in members]
            wanted = [t for pair in pairs for t in pair.input_ids[pair.prompt_length :]]
            assert batch.targets.tolist() == wanted


# theta_o's states


def test_layers_below_the_adapter_run_once_for_theta_o_and_the_model(tiny_llama: Path) -> None:
    model = make_model(tiny_llama, layers_to_transform=(1,))
    layers = model.base.model.get_decoder().layers
    parts = {"preservation_divergence": {}, "held_responses": {}}
    step = StepGradients(model, make_encoder(model.base), section(parts), 8, torch.Tensor.backward)
    runs: list[int] = []
    for number, layer in enumerate(layers):
        layer.mlp.register_forward_hook(lambda *_, number=number: runs.append(number))
    step.accumulate(DRAW)
    assert sorted(runs) == [0, 1, 1]


def test_kept_reference_states_give_the_same_gradient(model: AdaptedModel, tmp_path: Path) -> None:
    both = losses(preservation_divergence={"side": "both"})
    expected_losses, expected = accumulate(model, both)
    for _ in range(2):  # filled, then read
        result, actual = accumulate(model, both, reference_cache=tmp_path)
        assert result.answer_tokens == expected_losses.answer_tokens
        assert result.loss == pytest.approx(expected_losses.loss, rel=1e-5)
        assert_same_gradients(actual, expected)
    # theta_o's states are read, not computed: what is kept decides.
    for file in tmp_path.rglob("*.safetensors"):
        kept = load_file(file)
        save_file({name: 2 * value for name, value in kept.items()}, file)
    result, _ = accumulate(model, both, reference_cache=tmp_path)
    for name in ("preservation_divergence", "held_responses"):
        assert result.terms[name] != pytest.approx(expected_losses.terms[name], rel=1e-2)


def test_at_theta_o_nothing_pulls_at_normal_prompts(tiny_llama: Path) -> None:
    model = adapt(load(tiny_llama))
    off = {"preservation_divergence": {"weight": 0}, "held_responses": {"weight": 0}}
    _, without = accumulate(model, losses(**off))
    without = {name: gradient.clone() for name, gradient in without.items()}
    for side in ("negated", "acquired", "both"):
        result, whole = accumulate(model, losses(preservation_divergence={"side": side}))
        assert result.terms["preservation_divergence"] == 0
        assert result.terms["held_responses"] == 0
        assert all(torch.equal(whole[name], without[name]) for name in whole)


# The terms and their sum


@pytest.mark.parametrize("term", LOSSES)
def test_a_term_that_weighs_0_is_not_computed(
    model: AdaptedModel, monkeypatch: pytest.MonkeyPatch, term: str
) -> None:
    whole, _ = accumulate(model, losses())

    def never(*_: object, **__: object) -> None:
        raise AssertionError(f"{term} was computed")

    monkeypatch.setattr(f"lora_sku.step.{term}", never)
    result, _ = accumulate(model, losses(**{term: {"weight": 0}}))
    assert result.terms.keys() == LOSSES.keys() - {term}
    assert result.loss == pytest.approx(
        whole.loss - LOSSES[term]["weight"] * whole.terms[term], rel=1e-4
    )
    assert result.answer_tokens < whole.answer_tokens


def test_a_term_without_draws_is_not_computed(model: AdaptedModel) -> None:
    result, _ = accumulate(model, losses(), draw=replace(DRAW, safe=(), held=(), random=((),) * 3))
    assert result.terms.keys() == {"guided_distortion", "preservation_divergence"}


def test_gradients_add_up_on_those_that_are_there(model: AdaptedModel) -> None:
    _, once = accumulate(model, losses())
    once = {name: gradient.clone() for name, gradient in once.items()}
    step = StepGradients(model, make_encoder(model.base), losses(), 2, torch.Tensor.backward)
    step.accumulate(DRAW)
    twice = {n: p.grad for n, p in model.trained_parameters().items() if p.grad is not None}
    assert_same_gradients(twice, {name: 2 * gradient for name, gradient in once.items()})


def test_answer_tokens_are_counted_in_every_term(model: AdaptedModel) -> None:
    encoder = make_encoder(model.base)
    pairs = [*DRAW.forget, *(p for ps in DRAW.random for p in ps), *DRAW.safe, *DRAW.held]
    # Begun words are given, not answered.
    expected = sum(encoder.encode(*pair).answer_length for pair in pairs)
    normal = sum(encoder.answer_length(answer) for _, answer in DRAW.normal)
    for side, times in (("negated", 1), ("acquired", 1), ("both", 2)):
        result, _ = accumulate(model, losses(preservation_divergence={"side": side}))
        assert result.answer_tokens == expected + times * normal


def test_a_step_that_fails_leaves_the_adapter_on_its_acquired_face(model: AdaptedModel) -> None:
    ids = torch.arange(5, 15)[None]
    before = model.hidden_states(ids)
    calls: list[Tensor] = []

    def fail(loss: Tensor) -> None:
        calls.append(loss)
        if len(calls) == 3:  # 3 prompts of 2 at once: the first one on the negated face
            raise torch.OutOfMemoryError("CUDA out of memory.")
        loss.backward()

    step = StepGradients(model, make_encoder(model.base), losses(), 2, fail)
    with pytest.raises(torch.OutOfMemoryError):
        step.accumulate(DRAW)
    assert torch.equal(model.hidden_states(ids), before)
