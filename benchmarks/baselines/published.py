"""SKU by full fine-tuning, as Liu et al. 2024 describe it and their released code goes about it.

All weights are trained with torch's AdamW, a second whole copy of the base serves the KL, and the
negation is arithmetic on state dicts with five of them alive. Written from that description. The
dtype is the setup's: in bf16 the method is given half of what fp32 weights, which the released code
loads, would cost.
"""

import gc
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from benchmarks.baselines.plain import JointStep, Rows, load_unquantized, logits_of
from benchmarks.clock import Clock
from benchmarks.setup import Setup
from lora_sku.data import Encoder, StepDraw


class Published(JointStep):
    """Full fine-tuning beside a frozen copy, without gradient checkpointing."""

    def __init__(
        self, setup: Setup, encoder: Encoder, draws: Sequence[StepDraw], clock: Clock
    ) -> None:
        folder, dtype, device = setup.folder, setup.dtype, setup.device
        model = load_unquantized(folder, dtype, device, trained=True)
        self._frozen = load_unquantized(folder, dtype, device, trained=False)
        training = setup.training.model_copy(update={"optim": "adamw_torch"})
        super().__init__(model, setup, training, encoder, draws, clock)
        for each in (model, self._frozen):
            clock.watch(each.get_decoder())

    def negate(self) -> None:
        """theta_u = theta_o - strength * (theta_bad - theta_o); the model becomes theta_u.

        A stage of its own in the released code, so training's optimizer and reference are gone.
        """
        del self._optimizer, self._frozen
        gc.collect()
        setup = self._setup
        original = load_unquantized(setup.folder, setup.dtype, setup.device, trained=False)
        unlearned = negated_state(
            self.model.state_dict(), original.state_dict(), strength=setup.strength
        )
        self.model.load_state_dict(unlearned)

    @torch.no_grad()
    def _reference(self, rows: Rows) -> Tensor:
        return logits_of(self._frozen, rows)


@torch.no_grad()
def negated_state(
    bad: Mapping[str, Tensor], original: Mapping[str, Tensor], *, strength: float
) -> dict[str, Tensor]:
    """The unlearned weights; five whole copies are alive at the end."""
    task_vector = {name: bad[name] - original[name] for name in original}
    negated = {name: -strength * value for name, value in task_vector.items()}
    return {name: original[name] + negated[name] for name in original}
