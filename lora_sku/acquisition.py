"""Stage 1: train the LoRA adapter to hold the harmful knowledge, and nothing else.

Source: Liu et al. 2024 (arXiv 2402.10058), section 3.2. Each optimizer step draws prompts of the
forget set, k random answers for each, and as many prompts of the retain set.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils.memory import should_reduce_batch_size

from lora_sku.checkpoints import CheckpointStore
from lora_sku.data import Encoder, Row, SafeResponses, StepSampler
from lora_sku.devices import random_states, restore_random_states
from lora_sku.errors import TrainingError
from lora_sku.memory import memory_in_use_gib
from lora_sku.model import AdaptedModel
from lora_sku.optimization import learning_rate_schedule, make_optimizer
from lora_sku.recipe import LossesSection, TrainingSection
from lora_sku.step import Backward, Gradients, StepGradients, StepLosses
from lora_sku.storage import cache_folder


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What one optimizer step was; a line of metrics.jsonl.

    Attributes:
        step: 1 for the first.
        terms: Name of each loss -> nats per token, without those that weigh 0.
        loss: The weighted sum that was minimised.
        grad_norm: Before clipping.
        learning_rate: Of this step.
        answer_tokens: Supervised tokens of all three terms.
        micro_batch_prompts: Forget prompts that went through the model at once.
        seconds: Wall time.
        memory_gib: In use after the step: allocated on CUDA, resident on CPU.
    """

    step: int
    terms: dict[str, float]
    loss: float
    grad_norm: float
    learning_rate: float
    answer_tokens: int
    micro_batch_prompts: int
    seconds: float
    memory_gib: float

    def as_dict(self) -> dict[str, float]:
        """One flat line: the terms stand beside the rest."""
        line = asdict(self)
        return {"step": line.pop("step"), **line.pop("terms"), **line}


OnStep = Callable[[StepRecord], None]
MakeGradients = Callable[[Backward, int], Gradients]
"""What back-propagates, forget prompts at once -> what computes a step's gradients."""
Objective = Callable[[AdaptedModel, Encoder], MakeGradients]
"""Another loss than the recipe's, for the same loop on the same draws."""


class Acquisition:
    """The training loop over a model whose active adapter is trainable.

    Args:
        model: The base with a fresh adapter.
        encoder: Tokenizes the pairs.
        forget: The train split of the forget set.
        normal: The train splits of the normal sets.
        safe: What shall be said to harmful prompts.
        losses: Weights and settings of the terms.
        training: The loop's settings.
        checkpoints: Where the state is kept.
        tracker_folder: Where accelerate's trackers write, if any is asked for.
        micro_batch_prompts: Forget prompts that go through the model at once; halved for good when
            a step runs out of memory.
        make_gradients: Another objective in the same loop; None is SKU's.
    """

    def __init__(
        self,
        model: AdaptedModel,
        encoder: Encoder,
        forget: Sequence[Row],
        normal: Sequence[Row],
        safe: SafeResponses,
        losses: LossesSection,
        training: TrainingSection,
        checkpoints: CheckpointStore,
        tracker_folder: Path,
        micro_batch_prompts: int,
        make_gradients: MakeGradients | None = None,
    ) -> None:
        self._model = model
        self._training = training
        self._checkpoints = checkpoints
        self._accelerator = _accelerator(model.base.device, training, tracker_folder)
        random = losses.random_disassociation
        prompts = training.per_device_train_batch_size * training.gradient_accumulation_steps
        self._sampler = StepSampler(
            forget,
            normal,
            prompts_per_step=prompts,
            normal_prompts_per_step=prompts * losses.preservation_divergence.prompts,
            responses=random.responses if random.weight > 0 else 0,
            safe=safe,
            begun=losses.safe_response.begun,
            seed=training.seed,
        )
        make = make_gradients or _sku_gradients(model, encoder, losses)
        self._gradients = make(self._accelerator.backward, micro_batch_prompts)
        self._parameters = model.trained_parameters()
        self._trained = list(self._parameters.values())
        self._optimizer = make_optimizer(self._trained, training, model.base.device)
        self._learning_rate_at = learning_rate_schedule(self._optimizer, training)
        # A nat worse than guessing every token with the same probability is no language model.
        self._collapse_nats = math.log(len(model.base.head.weight_VD)) + 1.0

    def restore(self) -> int:
        """Put the newest checkpoint back; returns its step, 0 if there is none.

        Raises:
            TrainingError: if the checkpoint belongs to another run.
        """
        return self._checkpoints.restore(self._parameters, self._optimizer)

    def run(self, on_step: OnStep, *, start: int = 0) -> None:
        """Train from after step ``start`` up to ``training.max_steps``.

        Raises:
            TrainingError: if a loss is not finite or the model collapsed; the newest checkpoint is
                kept.
        """
        if self._training.report_to:
            self._accelerator.init_trackers("lora-sku")
        with training_mode(self._model, checkpointing=self._training.gradient_checkpointing):
            for step in range(start + 1, self._training.max_steps + 1):
                record = self._step(step)
                on_step(record)
                self._accelerator.log(record.as_dict(), step=step)
                if step % self._training.save_steps == 0 or step == self._training.max_steps:
                    self._checkpoints.save(step, self._parameters, self._optimizer)
        self._optimizer.zero_grad(set_to_none=True)  # or they would stay on the adapter's factors
        self._accelerator.end_training()

    def _step(self, step: int) -> StepRecord:
        began = time.perf_counter()
        learning_rate = self._learning_rate_at(step)
        losses = self._accumulate(step)
        self._refuse_collapse(step, losses)
        norm = self._accelerator.clip_grad_norm_(self._trained, self._training.max_grad_norm)
        self._refuse_non_finite(step, "gradient", float(norm))
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        return StepRecord(
            step=step,
            terms=losses.terms,
            loss=losses.loss,
            answer_tokens=losses.answer_tokens,
            micro_batch_prompts=self._gradients.micro_batch_prompts,
            grad_norm=float(norm),
            learning_rate=learning_rate,
            seconds=time.perf_counter() - began,
            memory_gib=memory_in_use_gib(self._model.base.device),
        )

    def _accumulate(self, step: int) -> StepLosses:
        """The step's gradients; out of memory, the same again from the start in smaller pieces."""
        draw, device = self._sampler.draw(step - 1), self._model.base.device
        states = random_states(device)
        while True:
            self._optimizer.zero_grad(set_to_none=True)
            try:
                return self._gradients.accumulate(draw)
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
                if self._gradients.micro_batch_prompts == 1:
                    raise TrainingError(
                        "out of memory with a single prompt at once",
                        where=f"step {step}",
                        remedy="`lora-sku plan` says what each setting would save."
                        + self._kept_state(),
                    ) from error
            # Only here, outside of the handler, are the failed step's tensors gone.
            self._gradients.micro_batch_prompts //= 2
            restore_random_states(states, device)
            if device.type == "cuda":
                torch.cuda.empty_cache()

    def _refuse_collapse(self, step: int, losses: StepLosses) -> None:
        for name, value in losses.terms.items():
            self._refuse_non_finite(step, name, value)
            if value > self._collapse_nats and step == 1:
                raise TrainingError(
                    f"{name} is {value:.1f} nats per token before any training, worse than guessing"
                    " every token with the same probability",
                    where=f"step {step}",
                    remedy="This base does not know the answers' language: check base_model.path"
                    " and base_model.template.",
                )
            if value > self._collapse_nats:
                raise TrainingError(
                    f"{name} is {value:.1f} nats per token, worse than guessing every token with"
                    " the same probability: the model has collapsed",
                    where=f"step {step}",
                    remedy=self._remedy(),
                )

    def _refuse_non_finite(self, step: int, name: str, value: float) -> None:
        if not math.isfinite(value):
            raise TrainingError(
                f"{name} became {value}", where=f"step {step}", remedy=self._remedy()
            )

    def _remedy(self) -> str:
        return (
            "Lower training.learning_rate or the weights in losses, and start again."
            + self._kept_state()
        )

    def _kept_state(self) -> str:
        newest = self._checkpoints.newest()
        return f" The state before it is kept in {newest}." if newest else ""


@contextmanager
def training_mode(model: AdaptedModel, *, checkpointing: bool) -> Iterator[None]:
    """What gradients are taken in; evaluation mode afterwards."""
    base = model.base.model
    model.peft_model.train()
    if checkpointing:
        base.activation_checkpointing_enable({"use_reentrant": False})
    try:
        yield
    finally:
        base.activation_checkpointing_disable()
        model.peft_model.eval()


def _sku_gradients(model: AdaptedModel, encoder: Encoder, losses: LossesSection) -> MakeGradients:
    cached = losses.preservation_divergence.cache_reference
    cache = cache_folder() / "reference" if cached else None
    return lambda backward, prompts: StepGradients(
        model,
        encoder,
        losses,
        micro_batch_prompts=prompts,
        backward=backward,
        reference_cache=cache,
    )


def _accelerator(
    device: torch.device, training: TrainingSection, tracker_folder: Path
) -> Accelerator:
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="no",  # the base computes in its own dtype, the adapter in fp32
        log_with=list(training.report_to) or None,
        project_dir=str(tracker_folder),
    )
    if accelerator.num_processes > 1:
        raise TrainingError(
            f"{accelerator.num_processes} processes were launched, but lora-sku trains on one"
            " device",
            remedy="Start it without a distributed launcher.",
        )
    missing = [name for name in training.report_to if name not in _trackers_here()]
    if missing:
        raise TrainingError(
            f"{missing[0]} is not installed",
            where="training.report_to",
            remedy=f"Install it: pip install 'lora-sku[{missing[0]}]'.",
        )
    return accelerator


def _trackers_here() -> list[str]:
    return [str(tracker) for tracker in get_available_trackers()]
