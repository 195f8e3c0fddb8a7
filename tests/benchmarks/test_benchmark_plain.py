"""The textbook's losses by hand."""

from pathlib import Path

import pytest
import torch
from bench_tools import CPU, DRAWS, make_encoder, make_setup

from benchmarks.baselines.plain import IGNORED, Rows, mean_kl, mean_nll, pad_rows


def two_rows() -> Rows:
    """One answer token in the first row, two in the second."""
    ignored = IGNORED
    return Rows(
        input_ids_BT=torch.tensor([[0, 1, 0], [0, 1, 1]]),
        attention_mask_BT=torch.tensor([[1, 1, 0], [1, 1, 1]]),
        labels_BT=torch.tensor([[ignored, 1, ignored], [ignored, 1, 1]]),
    )


def test_rows_are_padded_on_the_right_and_know_their_answers(tiny_llama: Path) -> None:
    encoder = make_encoder(make_setup(tiny_llama))
    pairs = DRAWS[0].forget
    rows = pad_rows(pairs, encoder, CPU)
    for number, pair in enumerate(pairs):
        encoded = encoder.encode(*pair)
        length = len(encoded.input_ids)
        assert tuple(rows.input_ids_BT[number, :length].tolist()) == encoded.input_ids
        assert rows.attention_mask_BT[number].tolist() == [
            int(place < length) for place in range(rows.input_ids_BT.shape[1])
        ]
        answer = encoded.input_ids[encoded.prompt_length :]
        labels = rows.labels_BT[number]
        assert tuple(labels[labels != IGNORED].tolist()) == answer
        assert (labels[: encoded.prompt_length] == IGNORED).all()
    assert rows.answer_tokens == sum(encoder.answer_length(answer) for _, answer in pairs)


def test_nll_is_the_mean_over_all_answer_tokens() -> None:
    logits_BTV = torch.zeros(2, 3, 2)
    logits_BTV[1, 1] = torch.tensor([0.0, 30.0])  # the last answer token is all but sure
    expected = (2 * torch.log(torch.tensor(2.0))) / 3
    assert mean_nll(logits_BTV, two_rows()).item() == pytest.approx(expected.item())


def test_kl_is_the_mean_over_what_predicts_answers() -> None:
    reference_BTV, logits_BTV = torch.zeros(2, 3, 2), torch.zeros(2, 3, 2)
    reference_BTV[:, 0, 1] = torch.log(torch.tensor(3.0))  # (1/4, 3/4) against (1/2, 1/2)
    logits_BTV[:, 2] = 7.0 * torch.tensor([0.0, 1.0])  # predicts nothing
    one = 0.25 * torch.log(torch.tensor(0.5)) + 0.75 * torch.log(torch.tensor(1.5))
    assert mean_kl(logits_BTV, reference_BTV, two_rows()).item() == pytest.approx(
        (2 * one / 3).item()
    )
