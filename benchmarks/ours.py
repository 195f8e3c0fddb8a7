"""lora-sku itself, driven through its public rooms as its own training loop drives them."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from benchmarks.clock import OPTIMIZER, Clock
from benchmarks.setup import Setup, update
from lora_sku.adapters import save_acquired
from lora_sku.data import Encoder, StepDraw
from lora_sku.heap import release_free_memory
from lora_sku.model import ACQUIRED, AdaptedModel, load_base
from lora_sku.negation import negate
from lora_sku.optimization import make_optimizer
from lora_sku.recipe import TrainingSection
from lora_sku.step import StepGradients, StepLosses


class Ours:
    """The quantized base with a LoRA, trained by `StepGradients`."""

    def __init__(
        self, setup: Setup, encoder: Encoder, draws: Sequence[StepDraw], clock: Clock
    ) -> None:
        base = load_base(setup.base_model)
        if base.packing.refused:
            click.echo(f"ours cannot share prompts here: {base.packing.refused}", err=True)
        self.model = AdaptedModel.with_new_adapter(base, setup.adapter, seed=setup.training.seed)
        self.model.peft_model.train()
        if setup.training.gradient_checkpointing:
            base.model.activation_checkpointing_enable({"use_reentrant": False})
        self._setup, self._draws, self._clock = setup, draws, clock
        self._gradients = StepGradients(
            self.model,
            encoder,
            setup.losses,
            micro_batch_prompts=_prompts_at_once(setup.training),
            backward=clock.backward,
        )
        self._parameters = list(self.model.trained_parameters().values())
        self._optimizer = make_optimizer(self._parameters, setup.training, base.device)
        clock.watch(base.model.get_decoder())

    def step(self, number: int) -> StepLosses:
        """One optimizer step."""
        losses = self._gradients.accumulate(self._draws[number])
        with self._clock.part(OPTIMIZER):
            update(self._parameters, self._optimizer, self._setup.training.max_grad_norm)
        return losses

    def negate(self) -> None:
        """Write the adapter and its negation, verified, to a folder that is thrown away.

        A stage of its own in a run, so training's optimizer is gone.
        """
        del self._optimizer
        release_free_memory()
        with tempfile.TemporaryDirectory() as folder:
            save_acquired(self.model, ACQUIRED, Path(folder) / "acquired")
            negate(
                Path(folder) / "acquired", Path(folder) / "negated", strength=self._setup.strength
            )


def _prompts_at_once(training: TrainingSection) -> int:
    """``auto`` is the whole batch here: the textbook has it in the model at once, too."""
    batch, chosen = training.per_device_train_batch_size, training.micro_batch_size
    return batch if chosen == "auto" else min(chosen, batch)
