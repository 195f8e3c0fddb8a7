"""Stage 1: the loop around the losses."""

import dataclasses
import hashlib
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import FORGET, RETAIN, adapt, load, make_encoder
from torch import Tensor

from lora_sku import acquisition
from lora_sku.acquisition import Acquisition, MakeGradients, OnStep, StepRecord
from lora_sku.base_checks import Packing
from lora_sku.checkpoints import CheckpointStore
from lora_sku.data import Batch, Row, SafeResponses, StepDraw
from lora_sku.errors import DataError, TrainingError
from lora_sku.model import AdaptedModel, Base
from lora_sku.recipe import LossesSection, TrainingSection
from lora_sku.step import Backward, StepGradients, StepLosses

FORGET_ROWS = [Row(prompt, answers) for prompt, answers in FORGET.items()]
RETAIN_ROWS = [Row(prompt, answers) for prompt, answers in RETAIN.items()]
LOSSES: dict[str, Any] = {"random_disassociation": {"responses": 2}}
EVERY: dict[str, Any] = {
    "guided_distortion": {"weight": 2.0},
    "random_disassociation": {"weight": 3.0, "responses": 1},
    "preservation_divergence": {"weight": 5.0},
    "safe_response": {"weight": 1.5, "begun": 0.5},
    "held_responses": {"weight": 4.0},
}
SAFE = SafeResponses(("No.", "I won't say."), {"how do i spoil a cake?": ("Bake it.",)})


@pytest.fixture
def calm(calm_llama: Path) -> Base:
    return load(calm_llama)


@pytest.fixture
def build(calm: Base, tmp_path: Path) -> Callable[..., Acquisition]:
    """An `Acquisition` on a model that it gets as ``acquisition.model`` does not show."""

    def build(
        model: AdaptedModel | None = None,
        losses: dict[str, Any] = LOSSES,
        micro_batch: int = 2,
        make_gradients: MakeGradients | None = None,
        **training: Any,
    ) -> Acquisition:
        keys = {"max_steps": 3, "gradient_checkpointing": False, "learning_rate": 1e-3, **training}
        return Acquisition(
            model or adapt(calm),
            make_encoder(calm),
            FORGET_ROWS,
            RETAIN_ROWS,
            SAFE,
            LossesSection.model_validate(losses),
            TrainingSection.model_validate(keys),
            CheckpointStore(tmp_path / "checkpoints", {}),
            tmp_path / "trackers",
            micro_batch,
            make_gradients,
        )

    return build


def train(
    build: Callable[..., Acquisition],
    model: AdaptedModel | None = None,
    also: OnStep = lambda _: None,
    **keys: Any,
) -> list[StepRecord]:
    records: list[StepRecord] = []

    def on_step(record: StepRecord) -> None:
        records.append(record)
        also(record)

    build(model, **keys).run(on_step)
    return records


def weights(model: AdaptedModel) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.trained_parameters().items()}


# The steps


def test_each_step_is_recorded(build: Callable[..., Acquisition]) -> None:
    records = train(build, losses=EVERY, learning_rate=1e-2)
    assert [record.step for record in records] == [1, 2, 3]
    assert records[0].terms["preservation_divergence"] == 0.0
    assert records[0].terms["held_responses"] == 0.0
    assert records[1].terms["held_responses"] > 0.0
    for record in records:
        assert list(record.terms) == [
            "guided_distortion",
            "random_disassociation",
            "safe_response",
            "preservation_divergence",
            "held_responses",
        ]
        expected = sum(EVERY[name]["weight"] * value for name, value in record.terms.items())
        assert record.loss == pytest.approx(expected)
        assert record.grad_norm > 0
        assert record.answer_tokens > 6
        assert 0 < record.seconds < 60
        assert 0.1 < record.memory_gib < 10
    assert records[2].loss < records[0].loss


def test_a_record_is_one_flat_line() -> None:
    record = StepRecord(3, {"guided_distortion": 1.5, "held_responses": 0.5}, 2.0, *range(6))
    assert record.as_dict() == {
        "step": 3,
        "guided_distortion": 1.5,
        "held_responses": 0.5,
        "loss": 2.0,
        "grad_norm": 0,
        "learning_rate": 1,
        "answer_tokens": 2,
        "micro_batch_prompts": 3,
        "seconds": 4,
        "memory_gib": 5,
    }


def test_every_step_draws_anew_and_an_epoch_visits_every_prompt(
    build: Callable[..., Acquisition], monkeypatch: pytest.MonkeyPatch
) -> None:
    draws: list[StepDraw] = []
    real = StepGradients.accumulate

    def spy(self: StepGradients, draw: StepDraw) -> StepLosses:
        draws.append(draw)
        return real(self, draw)

    monkeypatch.setattr(StepGradients, "accumulate", spy)
    train(build, max_steps=3, gradient_accumulation_steps=2, learning_rate=1e-5)
    forget = [prompt for draw in draws for prompt, _ in draw.forget]
    assert sorted(forget) == sorted(FORGET)  # 3 steps of 2 x 2 prompts are the 12 there are
    normal = {prompt for draw in draws for prompt, _ in draw.normal}
    assert len(draws[0].normal) == 4
    assert normal == set(RETAIN)
    assert all(len(answers) == 2 for draw in draws for answers in draw.random)
    safe = {prompt: answer for draw in draws for prompt, answer in draw.safe}
    assert safe.keys() == set(FORGET)
    assert safe["How do I spoil a cake?"] == "Bake it."
    assert {answer for draw in draws for _, answer in draw.held} == {
        "No.",
        "I won't say.",
        "Bake it.",
    }


def test_the_recipes_settings_reach_the_draws(
    build: Callable[..., Acquisition], monkeypatch: pytest.MonkeyPatch
) -> None:
    draws: list[StepDraw] = []
    real = StepGradients.accumulate

    def spy(self: StepGradients, draw: StepDraw) -> StepLosses:
        draws.append(draw)
        return real(self, draw)

    monkeypatch.setattr(StepGradients, "accumulate", spy)
    many = EVERY | {"preservation_divergence": {"weight": 5.0, "prompts": 3}}
    train(build, losses=many, max_steps=4, learning_rate=1e-5)
    assert [len(draw.normal) for draw in draws] == [6] * 4
    assert [len(draw.held) for draw in draws] == [6] * 4
    begun = [len(response) == 3 for draw in draws for response in (*draw.safe, *draw.held)]
    assert 8 < sum(begun) < 24  # half of 32
    draws.clear()
    train(build, losses=many | {"safe_response": {"weight": 1.0}}, max_steps=4)
    assert not any(len(r) == 3 for draw in draws for r in (*draw.safe, *draw.held))


def test_a_term_without_weight_is_neither_drawn_nor_recorded(
    build: Callable[..., Acquisition],
) -> None:
    losses = {"random_disassociation": {"weight": 0, "responses": 99}}
    (record,) = train(build, losses=losses, max_steps=1)
    assert record.terms.keys() == {"guided_distortion", "preservation_divergence"}
    with pytest.raises(DataError, match="responses"):
        build(losses={"random_disassociation": {"weight": 1, "responses": 99}})


def test_training_changes_the_adapter_and_not_one_byte_of_the_base(
    build: Callable[..., Acquisition], calm_llama: Path
) -> None:
    base = load(calm_llama, "nf4")

    def digest() -> str:
        tensors = [t for n, t in base.model.state_dict().items() if "lora_" not in n]
        assert len(tensors) > 20
        content = b"".join(t.contiguous().view(torch.uint8).numpy().tobytes() for t in tensors)
        return hashlib.sha256(content).hexdigest()

    model = adapt(base)
    before, adapter = digest(), weights(model)
    train(build, model)
    assert digest() == before
    after = weights(model)
    assert all(not torch.equal(after[name], adapter[name]) for name in adapter)


def test_one_batch_of_eight_is_eight_batches_of_one(
    build: Callable[..., Acquisition], calm: Base, calm_llama: Path
) -> None:
    wide, narrow = adapt(calm), adapt(load(calm_llama))
    at_once = train(
        build,
        wide,
        losses=EVERY,
        micro_batch=8,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=1,
        max_steps=2,
    )
    piecewise = train(
        build,
        narrow,
        losses=EVERY,
        micro_batch=1,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=8,
        max_steps=2,
    )
    for one, other in zip(at_once, piecewise, strict=True):
        assert one.answer_tokens == other.answer_tokens
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-4)
    other_weights = weights(narrow)
    for name, value in weights(wide).items():
        torch.testing.assert_close(value, other_weights[name], rtol=0, atol=2e-5)


class OutOfMemory:
    """Lets a model run out of memory at its n-th pass, once."""

    def __init__(self, model: AdaptedModel, at_pass: int, message: str) -> None:
        self._answer_states, self._at, self._message = model.answer_states, at_pass, message
        self.passes = 0
        model.answer_states = self  # type: ignore[method-assign]

    def __call__(self, batch: Batch) -> Tensor:
        self.passes += 1
        if self.passes == self._at:
            raise torch.OutOfMemoryError(self._message)
        return self._answer_states(batch)


CUDA_MESSAGE = "CUDA out of memory. Tried to allocate 20.00 MiB."
CPU_MESSAGE = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."


# With 4 prompts in a step and 4 at once, a step is a pass of harm, one of safe responses, one of
# normal prompts, and theta_o's of them.
@pytest.mark.parametrize("message", [CUDA_MESSAGE, CPU_MESSAGE])
@pytest.mark.parametrize(("at_pass", "in_step"), [(1, 1), (6, 2), (7, 2), (8, 2), (12, 3)])
def test_a_step_out_of_memory_is_repeated_with_half_the_prompts(
    build: Callable[..., Acquisition],
    calm_llama: Path,
    at_pass: int,
    in_step: int,
    message: str,
) -> None:
    # Dropout, so that the repeated step must also draw the same random numbers.
    faulty, smaller = (adapt(load(calm_llama), lora_dropout=0.3) for _ in range(2))
    keys = {"losses": EVERY, "per_device_train_batch_size": 4, "micro_batch": 4, "max_steps": 4}
    injected = OutOfMemory(faulty, at_pass, message)
    torch.manual_seed(5)
    records = train(build, faulty, **keys)
    assert injected.passes > at_pass
    sizes = [r.micro_batch_prompts for r in records]
    assert sizes == [4] * (in_step - 1) + [2] * (5 - in_step)

    run = build(smaller, **keys)

    def shrink(record: StepRecord) -> None:
        if record.step == in_step - 1:
            run._gradients.micro_batch_prompts = 2

    if in_step == 1:
        run._gradients.micro_batch_prompts = 2
    torch.manual_seed(5)
    run.run(shrink)
    expected = weights(smaller)
    for name, value in weights(faulty).items():
        assert torch.equal(value, expected[name])


class Decay:
    """No loss of SKU's: the adapter's own size, once out of memory."""

    def __init__(self, model: AdaptedModel, backward: Backward, prompts: int) -> None:
        self._model, self._backward, self.micro_batch_prompts = model, backward, prompts
        self.draws: list[StepDraw] = []

    def accumulate(self, draw: StepDraw) -> StepLosses:
        if self.micro_batch_prompts == 4:
            raise torch.OutOfMemoryError(CUDA_MESSAGE)
        self.draws.append(draw)
        loss = sum(p.square().sum() for p in self._model.trained_parameters().values())
        assert isinstance(loss, Tensor)
        self._backward(loss)
        return StepLosses({"size": float(loss.detach()) / 100}, float(loss.detach()), 7)


def test_another_objective_runs_in_the_same_loop(
    build: Callable[..., Acquisition], calm: Base
) -> None:
    model, made = adapt(calm), []

    def make(backward: Backward, prompts: int) -> Decay:
        made.append(Decay(model, backward, prompts))
        return made[-1]

    records = train(build, model, micro_batch=4, make_gradients=make)
    assert [record.micro_batch_prompts for record in records] == [2, 2, 2]
    assert [len(draw.forget) for draw in made[0].draws] == [2, 2, 2]
    assert records[0].loss > records[1].loss > records[2].loss > 0
    assert records[0].terms == {"size": records[0].loss / 100}
    assert records[0].answer_tokens == 7


def test_what_is_left_of_a_failed_step_is_freed_before_it_is_repeated(
    build: Callable[..., Acquisition], calm: Base
) -> None:
    model = adapt(calm)
    answer_states, kept = model.answer_states, []

    def fail_once(batch: Batch) -> Tensor:
        if not kept:
            activation = torch.zeros(3)
            kept.append(weakref.ref(activation))
            raise torch.OutOfMemoryError(CUDA_MESSAGE)
        assert kept[0]() is None
        return answer_states(batch)

    model.answer_states = fail_once  # type: ignore[method-assign]
    train(build, model, max_steps=1)
    assert kept


def test_a_single_prompt_out_of_memory_ends_the_run_with_advice(
    build: Callable[..., Acquisition], calm: Base
) -> None:
    model = adapt(calm)
    OutOfMemory(model, 7, CUDA_MESSAGE)
    with pytest.raises(TrainingError, match=r"single prompt.*lora-sku plan.*step-000001") as caught:
        train(build, model, micro_batch=1, save_steps=1)
    assert caught.value.where == "step 2"


def test_another_error_of_a_step_is_not_taken_for_it(
    build: Callable[..., Acquisition], calm: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapt(calm)

    def broken(batch: Batch) -> Tensor:
        raise RuntimeError("shapes do not match")

    model.answer_states = broken  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="shapes do not match"):
        train(build, model)


def test_a_short_run_in_packed_rows_ends_with_the_adapter_of_padded_rows(
    build: Callable[..., Acquisition], calm: Base, calm_llama: Path
) -> None:
    assert calm.packing.refused is None
    packed, padded = adapt(calm), adapt(load(calm_llama))
    padded = AdaptedModel(
        dataclasses.replace(padded.base, packing=Packing("not this one")), padded.peft_model
    )
    start = weights(packed)
    in_one_row = train(build, packed, losses=EVERY, max_steps=4)
    in_rows = train(build, padded, losses=EVERY, max_steps=4)
    for one, other in zip(in_one_row, in_rows, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-4)
    expected = weights(padded)
    for name, value in weights(packed).items():
        change = float((expected[name] - start[name]).norm())
        assert change > 0
        assert float((value - expected[name]).norm()) < 0.01 * change


def test_checkpointing_changes_no_number(
    build: Callable[..., Acquisition],
    calm: Base,
    calm_llama: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    real = torch.utils.checkpoint.checkpoint

    def spy(*args: Any, **keys: Any) -> Any:
        calls.append(keys.get("use_reentrant"))
        return real(*args, **keys)

    monkeypatch.setattr("torch.utils.checkpoint.checkpoint", spy)
    monkeypatch.setattr("transformers.modeling_utils.checkpoint", spy, raising=False)
    plain, saving = adapt(calm), adapt(load(calm_llama))
    off = train(build, plain, losses=EVERY)
    assert not calls
    on = train(build, saving, losses=EVERY, gradient_checkpointing=True)
    assert calls
    assert [r.loss for r in on] == pytest.approx([r.loss for r in off], rel=1e-6)
    other = weights(saving)
    for name, value in weights(plain).items():
        torch.testing.assert_close(other[name], value, rtol=0, atol=1e-7)


def test_the_model_is_left_as_for_use(build: Callable[..., Acquisition], calm: Base) -> None:
    model = adapt(calm)
    seen = []
    train(
        build,
        model,
        lambda _: seen.append((model.peft_model.training, calm.model.is_gradient_checkpointing)),
        gradient_checkpointing=True,
        max_steps=1,
    )
    assert seen == [(True, True)]
    assert not model.peft_model.training
    assert not calm.model.is_gradient_checkpointing
    assert all(parameter.grad is None for parameter in model.trained_parameters().values())


# The optimizer and its rate


def test_each_step_takes_its_own_rate_of_the_schedule(
    build: Callable[..., Acquisition], monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    real = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW,
        "step",
        lambda self: (used.append(self.param_groups[0]["lr"]), real(self))[1],
    )
    records = train(build, max_steps=4, warmup_steps=2, learning_rate=8e-4)
    assert used == pytest.approx([4e-4, 8e-4, 16e-4 / 3, 8e-4 / 3])
    assert used == [r.learning_rate for r in records]


def test_gradients_are_clipped_and_recorded_before(
    build: Callable[..., Acquisition], monkeypatch: pytest.MonkeyPatch
) -> None:
    norms = []
    real = torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW) -> None:
        grads = [p.grad.flatten() for p in self.param_groups[0]["params"]]
        norms.append(float(torch.cat(grads).norm()))
        real(self)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    records = train(build, max_grad_norm=0.01, max_steps=2)
    assert norms == pytest.approx([0.01] * 2, rel=1e-3)
    assert min(record.grad_norm for record in records) > 0.1


def test_weight_decay_reaches_the_optimizer(build: Callable[..., Acquisition], calm: Base) -> None:
    model, decayed = adapt(calm), {}
    name = next(name for name in model.trained_parameters() if "lora_A" in name)
    before = model.trained_parameters()[name].detach().clone()
    train(
        build,
        model,
        lambda _: decayed.update(weights(model)),
        max_steps=1,
        learning_rate=0.1,
        weight_decay=0.5,
    )
    # A's own gradient is 0 at the first step, because B is 0.
    torch.testing.assert_close(decayed[name], before * (1 - 0.1 * 0.5))


def test_checkpoints_come_at_their_steps_and_at_the_end(
    build: Callable[..., Acquisition], tmp_path: Path
) -> None:
    seen = {}

    def look(record: StepRecord) -> None:
        newest = CheckpointStore(tmp_path / "checkpoints", {}).newest()
        seen[record.step] = newest and newest.name

    train(build, also=look, max_steps=5, save_steps=2)
    assert seen == {1: None, 2: None, 3: "step-000002", 4: "step-000002", 5: "step-000004"}
    assert build().restore() == 5


# What stops it


def test_a_weight_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(
    build: Callable[..., Acquisition], calm: Base, tmp_path: Path
) -> None:
    model = adapt(calm)

    @torch.no_grad()
    def poison(record: StepRecord) -> None:
        if record.step == 3:
            next(iter(model.trained_parameters().values())).fill_(float("nan"))

    with pytest.raises(TrainingError, match="step 4: guided_distortion became nan") as caught:
        train(build, model, poison, max_steps=9, save_steps=2)
    kept = tmp_path / "checkpoints" / "step-000002"
    assert kept.is_dir()
    assert str(kept) in str(caught.value)
    assert "training.learning_rate" in str(caught.value)
    assert not model.peft_model.training


def test_a_gradient_that_is_not_finite_is_not_stepped(
    build: Callable[..., Acquisition], calm: Base
) -> None:
    model = adapt(calm)
    parameter = list(model.trained_parameters().values())[-1]
    parameter.register_hook(lambda grad: grad * float("inf"))
    before = weights(model)
    with pytest.raises(TrainingError, match="step 1: gradient became"):
        train(build, model)
    assert all(torch.equal(value, before[name]) for name, value in weights(model).items())


def test_a_collapsed_model_stops_the_run(build: Callable[..., Acquisition], calm: Base) -> None:
    @torch.no_grad()
    def spoil(_: StepRecord) -> None:
        calm.head.weight_VD.mul_(40)

    with pytest.raises(TrainingError, match=r"step 2: guided_distortion .* collapsed") as caught:
        train(build, also=spoil)
    assert "Lower training.learning_rate" in str(caught.value)
    assert "is kept" not in str(caught.value)  # there was no checkpoint yet


def test_a_base_that_is_worse_than_chance_is_told_as_such(
    build: Callable[..., Acquisition], calm: Base
) -> None:
    with torch.no_grad():
        calm.head.weight_VD.mul_(40)
    with pytest.raises(TrainingError, match=r"before any training.*base_model\.template"):
        train(build)


def test_several_processes_are_refused(
    build: Callable[..., Acquisition], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acquisition.Accelerator, "num_processes", 2)
    with pytest.raises(TrainingError, match="2 processes were launched"):
        build()


# Trackers


def test_tensorboard_gets_every_step(build: Callable[..., Acquisition], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    acquisition = build(losses=EVERY, report_to=("tensorboard",))
    assert not (tmp_path / "trackers").exists()  # a run that is refused leaves nothing
    losses: list[float] = []
    acquisition.run(lambda record: losses.append(record.loss))
    (events,) = (tmp_path / "trackers").rglob("events.out.tfevents.*")
    accumulator = EventAccumulator(str(events.parent))
    accumulator.Reload()
    logged = accumulator.Scalars("loss")
    assert [event.step for event in logged] == [1, 2, 3]
    assert [event.value for event in logged] == pytest.approx(losses)
    assert EVERY.keys() <= set(accumulator.Tags()["scalars"])  # each term has a curve of its own


def test_nothing_is_tracked_unasked(build: Callable[..., Acquisition], tmp_path: Path) -> None:
    train(build, max_steps=1)
    assert not (tmp_path / "trackers").exists()


def test_a_tracker_that_is_not_installed_is_named(
    build: Callable[..., Acquisition], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acquisition, "get_available_trackers", list)
    with pytest.raises(TrainingError, match=r"tensorboard is not installed.*pip install"):
        build(report_to=("tensorboard",))
