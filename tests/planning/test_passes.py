"""A pass's planned peak is that of the real pass."""

from pathlib import Path

import pytest
import torch
from planning_tools import ids_and_layout, pair
from tiny import llama_config, save_model

from lora_sku.losses import guided_distortion, preservation_divergence
from lora_sku.planning.layers import Tokens
from lora_sku.planning.live import LiveBytes
from lora_sku.planning.passes import Pass, count_loss, scoring_moments, training_moments

ROWS = Tokens(4, 48)
PACKED = Tokens(1, 150, unfolds=(5, 40))


@pytest.mark.parametrize("load", [ROWS, PACKED], ids=["rows", "packed"])
@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("loss", ["nll", "kl"])
def test_the_peak_of_a_real_pass_is_the_planned_one(
    tmp_path: Path, load: Tokens, checkpointing: bool, loss: str
) -> None:
    config = llama_config(num_hidden_layers=6, hidden_size=128, intermediate_size=384)
    both = pair(save_model(tmp_path, config), "none")
    model, answers = both.real, (30, 50) if loss == "nll" else (80,)
    if checkpointing:
        model.base.model.activation_checkpointing_enable({"use_reentrant": False})
    sources = torch.arange(sum(answers))
    reference = torch.zeros(80, 128, dtype=torch.bfloat16)
    ids, layout = ids_and_layout(load)
    with LiveBytes() as live:
        hidden = model.hidden_states(ids, layout).flatten(0, 1).index_select(0, sources)
        head = model.base.head
        if loss == "kl":
            total, _ = preservation_divergence(hidden, reference, head, total_tokens=1)
        else:
            total = sum(
                guided_distortion(hidden[:n], torch.zeros(n).long(), head, total_tokens=1)
                for n in answers
            )
        del hidden
        total.backward()
    work = Pass("test", load, answers, loss)  # type: ignore[arg-type]
    planned = training_moments(both.shape, both.setup, work, checkpointing=checkpointing)
    peak = max(moment.total for moment in planned)
    assert peak == pytest.approx(live.peak, rel=0.1)


def test_checkpointing_moves_memory_from_activations_to_the_layer(tmp_path: Path) -> None:
    config = llama_config(num_hidden_layers=8)
    both = pair(save_model(tmp_path, config))
    work = Pass("test", ROWS, (50,), "nll")
    on, off = (
        max(
            training_moments(both.shape, both.setup, work, checkpointing=c),
            key=lambda moment: moment.total,
        )
        for c in (True, False)
    )
    assert on.activations < off.activations / 4
    assert on.total < off.total


def test_scoring_needs_less_than_training(tmp_path: Path) -> None:
    both = pair(save_model(tmp_path, llama_config()))
    work = Pass("test", ROWS, (50,), "kl")
    scoring = max(m.total for m in scoring_moments(both.shape, both.setup, work))
    training = training_moments(both.shape, both.setup, work, checkpointing=False)
    assert 0 < scoring < max(m.total for m in training)
    with torch.no_grad():
        assert count_loss(both.shape, work).backward_peak == 0
