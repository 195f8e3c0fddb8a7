"""Batches: what goes in, what predicts what, and how packed rows unfold."""

import pytest
import torch

from lora_sku.data.batches import Batch, collate, pack
from lora_sku.data.encoding import Encoded

# 9 is pad and EOS at once, as in many instruct tokenizers.
SHORT = Encoded((9, 5, 9), 2, False, False)
LONG = Encoded((1, 2, 3, 4, 9), 1, False, False)
# One prompt with two answers.
ONE = Encoded((7, 8, 3, 9), 2, False, False)
OTHER = Encoded((7, 8, 4, 5, 9), 2, False, False)


def predictions(batch: Batch) -> list[tuple[int, int]]:
    """(token at the source, target) of every answer token."""
    sources = batch.input_ids.flatten()[batch.sources].tolist()
    return list(zip(sources, batch.targets.tolist(), strict=True))


def test_padding_is_on_the_right_and_the_last_token_is_only_a_target():
    batch = collate([SHORT, LONG], pad_id=9)
    assert batch.input_ids.tolist() == [[9, 5, 9, 9], [1, 2, 3, 4]]
    assert batch.sources.tolist() == [1, 4, 5, 6, 7]
    assert batch.targets.tolist() == [9, 2, 3, 4, 9]
    assert batch.layout is None
    assert {t.dtype for t in (batch.input_ids, batch.sources, batch.targets)} == {torch.int64}


def test_a_packed_prompt_stands_once_before_its_answers():
    batch = pack([[ONE, OTHER], [LONG]])
    assert batch.input_ids.tolist() == [[7, 8, 3, 4, 5, 1, 2, 3, 4]]
    assert predictions(batch) == [
        *((8, 3), (3, 9)),
        *((8, 4), (4, 5), (5, 9)),
        *((1, 2), (2, 3), (3, 4), (4, 9)),
    ]
    assert batch.layout is not None
    assert batch.layout.position_ids.tolist() == [[0, 1, 2, 2, 3, 0, 1, 2, 3]]


def test_a_packed_row_unfolds_into_the_rows_of_its_pairs():
    batch = pack([[ONE, OTHER], [LONG]])
    assert batch.layout is not None
    rows = batch.input_ids[0][batch.layout.unfold]
    assert rows.shape == (3, 4)
    assert [row[:length].tolist() for row, length in zip(rows, (3, 4, 4), strict=True)] == [
        [7, 8, 3],
        [7, 8, 4, 5],
        [1, 2, 3, 4],
    ]


def test_folding_finds_every_packed_token_in_one_of_its_rows():
    layout = pack([[ONE, OTHER], [LONG]]).layout
    assert layout is not None
    assert layout.unfold.flatten()[layout.fold].tolist() == list(range(9))
    # Not in a place past a pair's end, where attention has nothing to say: the first row's fourth.
    assert 3 not in layout.fold.tolist()


# Of the last, 3 and 4 are given and only 5 and EOS are answered.
GIVEN = Encoded((7, 8, 3, 4, 5, 9), 2, False, False, begun=2)
# All prompts begin with 7, 8; the second is a beginning of the third.
BEGUN = Encoded((7, 8, 3, 4, 9), 3, False, False)
PREFIX = Encoded((7, 8, 5, 6, 9), 3, False, False)
LONGER = Encoded((7, 8, 5, 1, 2, 3, 9), 5, False, False)


def test_what_all_prompts_begin_with_stands_once_in_front():
    batch = pack([[BEGUN], [PREFIX], [LONGER]])
    assert batch.input_ids.tolist() == [[7, 8, 3, 4, 5, 6, 5, 1, 2, 3]]
    assert batch.layout is not None
    assert batch.layout.position_ids.tolist() == [[0, 1, 2, 3, 2, 3, 2, 3, 4, 5]]
    assert predictions(batch) == [(3, 4), (4, 9), (5, 6), (6, 9), (2, 3), (3, 9)]
    alone = sum(pack([[pair]]).input_ids.numel() for pair in (BEGUN, PREFIX, LONGER))
    assert batch.input_ids.numel() == alone - 2 * 2  # two tokens for each group but the first


def test_what_has_begun_is_no_target():
    for batch in (collate([GIVEN, LONG], pad_id=9), pack([[GIVEN], [LONG]])):
        assert predictions(batch) == [(4, 5), (5, 9), (1, 2), (2, 3), (3, 4), (4, 9)]
    # It is no part of the prompt either, which the other answers see.
    assert pack([[ONE, GIVEN]]).input_ids.tolist() == [[7, 8, 3, 3, 4, 5]]
    with pytest.raises(ValueError, match="no answer token"):
        pack([[Encoded((7, 8, 3, 4), 2, False, False, begun=2)]])


GROUPS = {
    "beginnings alike": [[BEGUN], [PREFIX], [LONGER]],
    "answers too": [[ONE, OTHER], [BEGUN], [LONGER]],
    "one a beginning of the other": [[PREFIX], [LONGER]],
    "the other way round": [[LONGER], [PREFIX]],
    "a whole prompt is what all begin with": [[ONE], [LONGER], [OTHER]],
    "the same prompt in two groups": [[ONE], [OTHER], [ONE]],
    "one group": [[ONE, OTHER]],
    "an answer that has begun": [[ONE, GIVEN], [LONGER]],
    "one pair": [[LONG]],
    "nothing in common": [[ONE, OTHER], [LONG]],
    "the last one begins otherwise": [[BEGUN], [PREFIX], [LONG]],
    "no input of an answer's own": [[SHORT], [SHORT]],
}


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
def test_every_row_unfolds_to_its_pair_at_the_positions_of_a_row_of_its_own(groups):
    batch, pairs = pack(groups), [pair for group in groups for pair in group]
    layout = batch.layout
    assert layout is not None
    rows = batch.input_ids[0][layout.unfold]
    positions = layout.position_ids[0][layout.unfold]
    padded = collate(pairs, pad_id=0)
    assert predictions(batch) == predictions(padded)
    for pair, row, places in zip(pairs, rows, positions, strict=True):
        length = len(pair.input_ids) - 1
        assert row[:length].tolist() == list(pair.input_ids[:-1])
        assert places[:length].tolist() == list(range(length))
    # Every packed token is found again, in a place that is within some pair.
    assert layout.unfold.flatten()[layout.fold].tolist() == list(range(batch.input_ids.numel()))
    width = layout.unfold.shape[1]
    for place in layout.fold.tolist():
        assert place % width < len(pairs[place // width].input_ids) - 1
    # A source is the place of its own pair: it holds that pair's last token before the target.
    sources = iter(batch.sources.tolist())
    for pair, row in zip(pairs, layout.unfold.tolist(), strict=True):
        own = row[pair.given_length - 1 : len(pair.input_ids) - 1]
        assert [next(sources) for _ in own] == own


@pytest.mark.parametrize("batch", [collate([SHORT], pad_id=0), pack([[ONE, OTHER]])])
def test_a_batch_moves_as_a_whole(batch: Batch):
    moved = batch.to("meta")
    tensors = [moved.input_ids, moved.sources, moved.targets]
    assert (moved.layout is None) == (batch.layout is None)
    if moved.layout is not None:
        tensors += [moved.layout.position_ids, moved.layout.unfold, moved.layout.fold]
    assert all(tensor.device.type == "meta" for tensor in tensors)


def test_an_empty_batch_is_an_error():
    for empty in (lambda: collate([], pad_id=0), lambda: pack([])):
        with pytest.raises(ValueError, match="at least one"):
            empty()


def test_an_answer_needs_a_position_before_it():
    with pytest.raises(ValueError, match="no position before"):
        collate([Encoded((1, 2), 0, False, False)], pad_id=0)


def test_a_pair_needs_an_answer():
    with pytest.raises(ValueError, match="no answer token"):
        pack([[Encoded((1, 2), 2, False, False)]])


def test_a_group_has_one_prompt():
    with pytest.raises(ValueError, match="same prompt"):
        pack([[ONE, LONG]])
