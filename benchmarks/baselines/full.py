"""SKU by full fine-tuning with all that saves memory there; the mathematics is the same.

theta_o exists only before the first update, so its hidden states at normal answers are computed
once for all steps and kept on the CPU, with a copy of the output projection. Checkpointed layers,
losses in checkpointed chunks, each term back-propagated on its own, AdamW states in the weights'
dtype (8-bit on CUDA), negation tensor by tensor straight from the base's files.

Shape suffixes: N answer tokens, C tokens of a chunk, D hidden size.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from benchmarks.baselines.plain import (
    IGNORED,
    PRESERVATION,
    Rows,
    load_unquantized,
    pad_rows,
    pairs_of,
)
from benchmarks.clock import OPTIMIZER, REFERENCE, Clock
from benchmarks.setup import Setup, refuse_other_losses, update
from lora_sku.base_checks import output_head
from lora_sku.data import Encoder, Pair, StepDraw
from lora_sku.head import Head
from lora_sku.losses import CHUNK_TOKENS
from lora_sku.optimization import make_optimizer
from lora_sku.step import StepLosses


class Full:
    """Lean full fine-tuning without a second copy of the base."""

    def __init__(
        self, setup: Setup, encoder: Encoder, draws: Sequence[StepDraw], clock: Clock
    ) -> None:
        self._setup, self._encoder, self._draws, self._clock = setup, encoder, draws, clock
        self.model = load_unquantized(setup.folder, setup.dtype, setup.device, trained=True)
        self._head = output_head(self.model, setup.base_model.path)
        self.model.activation_checkpointing_enable({"use_reentrant": False})
        self._parameters = list(self.model.parameters())
        lean = "adamw_torch" if setup.device.type == "cpu" else "adamw_8bit"
        training = setup.training.model_copy(update={"optim": lean})
        self._optimizer = make_optimizer(self._parameters, training, setup.device)
        self._references: list[Tensor] = []
        self._reference_head = self._head
        clock.watch(self.model.get_decoder())

    def step(self, number: int) -> StepLosses:
        """One optimizer step; the first one computes theta_o's hidden states of all steps before.

        Raises:
            ValueError: as `refuse_other_losses`.
        """
        weights, draw = self._setup.losses, self._draws[number]
        refuse_other_losses(weights)
        if not self._references and weights.preservation_divergence.weight > 0:
            self._keep_references()
        found = StepLosses()
        for name, pairs in pairs_of(draw).items():
            weight = getattr(weights, name).weight
            if weight > 0:
                reference_ND = self._references[number] if name == PRESERVATION else None
                value, tokens = self._term(pairs, weight, reference_ND)
                found.terms[name] = value
                found.loss += weight * value
                found.answer_tokens += tokens
        with self._clock.part(OPTIMIZER):
            update(self._parameters, self._optimizer, self._setup.training.max_grad_norm)
        return found

    @torch.no_grad()
    def negate(self) -> None:
        """theta_u = theta_o - strength * (theta_bad - theta_o), one tensor at a time."""
        strength = self._setup.strength
        left = dict(self.model.named_parameters())
        for file in sorted(self._setup.folder.glob("*.safetensors")):
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - no mapping
                    weight = left.pop(name)
                    original = tensors.get_tensor(name).to(weight.device, weight.dtype)
                    weight.copy_(original - strength * (weight - original))
        assert not left, f"not in the base's files: {sorted(left)}"

    @torch.no_grad()
    def _keep_references(self) -> None:
        with self._clock.part(REFERENCE):
            self._reference_head = replace(self._head, weight_VD=self._head.weight_VD.clone())
            for draw in self._draws:
                hidden_ND, _ = self._answer_states(self._rows(draw.normal))
                self._references.append(hidden_ND.cpu())
        self._clock.take()  # before the first step, not part of it

    def _rows(self, pairs: Sequence[Pair]) -> Rows:
        return pad_rows(pairs, self._encoder, self._setup.device)

    def _answer_states(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Hidden states that predict the answer tokens (N, D), and those tokens (N,)."""
        output = self.model.get_decoder()(
            input_ids=rows.input_ids_BT, attention_mask=rows.attention_mask_BT, use_cache=False
        )
        labels = rows.labels_BT[:, 1:]
        predicts = labels != IGNORED
        return output.last_hidden_state[:, :-1][predicts], labels[predicts]

    def _term(
        self, pairs: Sequence[Pair], weight: float, reference_ND: Tensor | None
    ) -> tuple[float, int]:
        """Back-propagate one term; returns its value in nats per token, and its tokens."""
        hidden_ND, targets_N = self._answer_states(self._rows(pairs))
        if reference_ND is None:
            summed = self._nll(hidden_ND, targets_N)
        else:
            summed = self._kl(hidden_ND, reference_ND)
        value = summed / len(targets_N)
        self._clock.backward(weight * value)
        return value.item(), len(targets_N)

    def _nll(self, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
        return _in_chunks(
            lambda hidden_CD, targets_C: functional.cross_entropy(
                self._head.logits(hidden_CD), targets_C, reduction="sum"
            ),
            hidden_ND,
            targets_N,
        )

    def _kl(self, hidden_ND: Tensor, reference_ND: Tensor) -> Tensor:
        return _in_chunks(
            lambda hidden_CD, reference_CD: _chunk_kl(
                self._head, hidden_CD, self._reference_head, reference_CD
            ),
            hidden_ND,
            reference_ND.to(hidden_ND.device),
        )


def _chunk_kl(head: Head, hidden_CD: Tensor, reference_head: Head, reference_CD: Tensor) -> Tensor:
    return functional.kl_div(
        functional.log_softmax(head.logits(hidden_CD), dim=-1),
        functional.log_softmax(reference_head.logits(reference_CD), dim=-1),
        log_target=True,
        reduction="sum",
    )


def _in_chunks(
    summed: Callable[[Tensor, Tensor], Tensor], hidden_ND: Tensor, other_N: Tensor
) -> Tensor:
    """The sum over chunks whose logits are computed again in the backward pass."""
    chunks = torch.split(hidden_ND, CHUNK_TOKENS), torch.split(other_N, CHUNK_TOKENS)
    pieces = zip(*chunks, strict=True)
    sums = [checkpoint(summed, *piece, use_reentrant=False) for piece in pieces]
    return torch.stack(sums).sum()
