import pytest
import torch

from lora_sku.data.batches import collate
from lora_sku.data.encoding import Encoded

# 9 is pad and EOS at once, as in many instruct tokenizers.
SHORT = Encoded((9, 5, 9), 2, False, False)
LONG = Encoded((1, 2, 3, 4, 9), 1, False, False)


def test_padding_is_on_the_right_and_the_mask_covers_the_answers_with_eos():
    batch = collate([SHORT, LONG], pad_id=9)
    assert batch.input_ids.tolist() == [[9, 5, 9, 9, 9], [1, 2, 3, 4, 9]]
    assert batch.answer_mask.tolist() == [
        [False, False, True, False, False],
        [False, True, True, True, True],
    ]
    assert batch.input_ids.dtype == torch.int64
    assert batch.answer_mask.dtype == torch.bool
    assert batch.n_answer_tokens == 5


def test_a_batch_moves_as_a_whole():
    batch = collate([SHORT], pad_id=0).to("meta")
    assert batch.input_ids.device.type == batch.answer_mask.device.type == "meta"


def test_nothing_to_collate_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        collate([], pad_id=0)


def test_an_answer_needs_a_position_before_it():
    with pytest.raises(ValueError, match="no position before"):
        collate([Encoded((1, 2), 0, False, False)], pad_id=0)
