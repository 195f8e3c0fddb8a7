"""The three losses as a textbook has them: padded rows, whole logits, one joint scalar.

Shape suffixes: B rows, T tokens of the longest row, V vocabulary size.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, PreTrainedModel

from benchmarks.clock import OPTIMIZER, Clock
from benchmarks.setup import Setup, refuse_other_losses, update
from lora_sku.data import Encoder, Pair, StepDraw
from lora_sku.optimization import make_optimizer
from lora_sku.recipe import LossesSection, TrainingSection
from lora_sku.step import StepLosses

IGNORED = -100
PRESERVATION = "preservation_divergence"


@dataclass(frozen=True)
class Rows:
    """One (prompt, answer) pair a row, padded on the right.

    Attributes:
        input_ids_BT: int64.
        attention_mask_BT: int64; 1 at real tokens.
        labels_BT: int64; IGNORED at prompt and padding.
    """

    input_ids_BT: Tensor
    attention_mask_BT: Tensor
    labels_BT: Tensor

    @property
    def answer_tokens(self) -> int:
        """Supervised tokens."""
        return int((self.labels_BT != IGNORED).sum())


def pad_rows(pairs: Sequence[Pair], encoder: Encoder, device: torch.device) -> Rows:
    """Tokenize pairs; each row has its own copy of the prompt."""
    encoded = [encoder.encode(*pair) for pair in pairs]
    shape = len(encoded), max(len(row.input_ids) for row in encoded)
    input_ids_BT = torch.full(shape, encoder.pad_id)
    attention_mask_BT = torch.zeros(shape, dtype=torch.int64)
    labels_BT = torch.full(shape, IGNORED)
    for number, row in enumerate(encoded):
        length, start = len(row.input_ids), row.prompt_length
        input_ids_BT[number, :length] = torch.tensor(row.input_ids)
        attention_mask_BT[number, :length] = 1
        labels_BT[number, start:length] = input_ids_BT[number, start:length]
    return Rows(input_ids_BT.to(device), attention_mask_BT.to(device), labels_BT.to(device))


def load_unquantized(
    folder: Path, dtype: torch.dtype, device: torch.device, *, trained: bool
) -> PreTrainedModel:
    """A whole model in ``dtype``, to be trained in full or frozen."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, device_map={"": device}, use_safetensors=True
    )
    model.requires_grad_(trained)
    model.train(trained)
    return model


def logits_of(model: nn.Module, rows: Rows) -> Tensor:
    """Logits of every position (B, T, V)."""
    output = model(
        input_ids=rows.input_ids_BT, attention_mask=rows.attention_mask_BT, use_cache=False
    )
    logits_BTV: Tensor = output.logits
    return logits_BTV


def mean_nll(logits_BTV: Tensor, rows: Rows) -> Tensor:
    """Cross-entropy of the answer tokens in nats, their mean; fp32, as transformers' own loss."""
    return functional.cross_entropy(
        logits_BTV[:, :-1].float().flatten(0, 1),
        rows.labels_BT[:, 1:].flatten(),
        ignore_index=IGNORED,
    )


def mean_kl(logits_BTV: Tensor, reference_BTV: Tensor, rows: Rows) -> Tensor:
    """KL(theta_o || theta_t) in nats, the mean over the positions that predict answer tokens."""
    log_p_BTV = functional.log_softmax(logits_BTV[:, :-1].float(), dim=-1)
    log_reference_BTV = functional.log_softmax(reference_BTV[:, :-1].float(), dim=-1)
    kl_BT = functional.kl_div(log_p_BTV, log_reference_BTV, log_target=True, reduction="none").sum(
        -1
    )
    predicts_BT = rows.labels_BT[:, 1:] != IGNORED
    return (kl_BT * predicts_BT).sum() / predicts_BT.sum()


def joint_loss(
    model: nn.Module,
    reference: Callable[[Rows], Tensor],
    draw: StepDraw,
    encoder: Encoder,
    weights: LossesSection,
    device: torch.device,
) -> tuple[Tensor, StepLosses]:
    """w1 * L_GD + w2 * L_RD + w3 * L_PD, ready for one backward pass; a weight of 0 is no term.

    Args:
        model: Under training.
        reference: theta_o's logits of the rows, without gradient.
        draw: The step's pairs.
        encoder: Tokenizes them.
        weights: The paper's losses.
        device: The model's.

    Raises:
        ValueError: as `refuse_other_losses`.
    """
    refuse_other_losses(weights)
    found = StepLosses()
    total = torch.zeros((), device=device)
    for name, pairs in pairs_of(draw).items():
        weight = getattr(weights, name).weight
        if weight == 0:
            continue
        rows = pad_rows(pairs, encoder, device)
        if name == PRESERVATION:
            reference_BTV = reference(rows)
            value = mean_kl(logits_of(model, rows), reference_BTV, rows)
        else:
            value = mean_nll(logits_of(model, rows), rows)
        total = total + weight * value
        found.terms[name] = value.item()
        found.answer_tokens += rows.answer_tokens
    found.loss = total.item()
    return total, found


def pairs_of(draw: StepDraw) -> dict[str, Sequence[Pair]]:
    """Name of each of the paper's losses -> the pairs that it is taken on."""
    return {
        "guided_distortion": draw.forget,
        "random_disassociation": [pair for pairs in draw.random for pair in pairs],
        PRESERVATION: draw.normal,
    }


class JointStep(ABC):
    """A method whose step is one backward pass of the sum of the three losses.

    Subclasses load ``model`` before they build this, and say what theta_o is.
    """

    def __init__(
        self,
        model: nn.Module,
        setup: Setup,
        training: TrainingSection,
        encoder: Encoder,
        draws: Sequence[StepDraw],
        clock: Clock,
    ) -> None:
        self.model = model
        self._setup, self._encoder, self._draws, self._clock = setup, encoder, draws, clock
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = make_optimizer(self._parameters, training, setup.device)

    def step(self, number: int) -> StepLosses:
        """One optimizer step."""
        setup = self._setup
        loss, losses = joint_loss(
            self.model,
            self._reference,
            self._draws[number],
            self._encoder,
            setup.losses,
            setup.device,
        )
        self._clock.backward(loss)
        with self._clock.part(OPTIMIZER):
            update(self._parameters, self._optimizer, setup.training.max_grad_norm)
        return losses

    @abstractmethod
    def _reference(self, rows: Rows) -> Tensor:
        """theta_o's logits (B, T, V), without gradient."""
