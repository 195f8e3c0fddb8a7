import random

import pytest

from lora_sku.data.rows import Row
from lora_sku.data.splits import split_by_prompt
from lora_sku.errors import DataError


def rows(*prompts):
    return [Row(str(prompt), ("a",)) for prompt in prompts]


def cut(items, validation=0.1, unseen=0.2, seed=1, follow=None):
    return split_by_prompt(
        items, validation_fraction=validation, unseen_fraction=unseen, seed=seed, follow=follow
    )


def test_sizes_are_exact_and_nothing_is_lost_or_doubled():
    splits = cut(rows(*range(100)))
    assert [len(part) for part in (splits.train, splits.validation, splits.unseen)] == [70, 10, 20]
    everything = splits.train + splits.validation + splits.unseen
    assert sorted(int(row.prompt) for row in everything) == list(range(100))


def test_the_order_of_the_rows_does_not_matter():
    items = rows(*range(100))
    before = cut(items)
    random.Random(0).shuffle(items)
    assert cut(items) == before


def test_another_seed_gives_another_cut():
    assert set(cut(rows(*range(100)), seed=1).unseen) != set(cut(rows(*range(100)), seed=2).unseen)


def test_a_fraction_above_zero_gets_at_least_one_prompt_and_zero_gets_none():
    splits = cut(rows(1, 2, 3), validation=0.01, unseen=0.01)
    assert (len(splits.train), len(splits.validation), len(splits.unseen)) == (1, 1, 1)
    assert cut(rows(1), validation=0, unseen=0).train == tuple(rows(1))


@pytest.mark.parametrize(("count", "validation"), [(2, 0.1), (1, 0.0), (0, 0.0)])
def test_too_few_prompts_are_refused(count, validation):
    with pytest.raises(DataError, match=f"{count} different prompts are too few"):
        cut(rows(*range(count)), validation=validation)


def test_prompts_that_differ_in_case_and_space_only_stay_together():
    items = [row for i in range(20) for row in rows(f"word {i}", f" WORD  {i}\n")]
    for seed in range(5):
        # Sizes that would fall between twins if rows were counted.
        splits = cut(items, validation=0.125, unseen=0.125, seed=seed)
        split_of = {row.prompt: name for name, part in splits.named().items() for row in part}
        assert all(split_of[f"word {i}"] == split_of[f" WORD  {i}\n"] for i in range(20))
        assert [len(part) for part in splits.named().values()] == [32, 4, 4]


def leaks(first, second):
    """Whether a prompt stands in one split of the first set and in another of the second."""
    split_of = {row.prompt: name for name, part in first.named().items() for row in part}
    return any(
        split_of.get(row.prompt, name) != name
        for name, part in second.named().items()
        for row in part
    )


def test_prompts_of_the_followed_set_go_where_they_are_there():
    shared = range(80, 120)
    cuts = [(cut(rows(*range(100)), seed=i), i) for i in range(20)]
    assert not any(leaks(first, cut(rows(*shared), seed=i, follow=first)) for first, i in cuts)
    # Without following, the sets' sizes alone make them cut at different places.
    assert any(leaks(first, cut(rows(*shared), seed=i)) for first, i in cuts)


def test_free_prompts_fill_the_splits_of_a_following_set_up_to_their_sizes():
    splits = cut(rows(*range(30)), follow=cut(rows(*range(100, 130))))
    assert [len(part) for part in (splits.train, splits.validation, splits.unseen)] == [21, 3, 6]
