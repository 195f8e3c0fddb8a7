"""Which adapter configurations have an exact negation."""

from typing import Any

import pytest

from lora_sku.errors import AdapterError
from lora_sku.negatable import FREE_KEYS, MUST_BE_EMPTY, check_negatable


def test_pefts_own_default_configuration_is_negatable() -> None:
    # Guards the lists against a PEFT release whose defaults they do not know.
    peft = pytest.importorskip("peft")
    check_negatable(peft.LoraConfig(target_modules=["q_proj"]).to_dict())


def test_an_empty_configuration_counts_as_pefts_defaults() -> None:
    check_negatable({})


@pytest.mark.parametrize("empty", [None, False, 0, "none", [], {}])
@pytest.mark.parametrize("key", MUST_BE_EMPTY)
def test_an_empty_value_is_no_obstacle(key: str, empty: Any) -> None:
    check_negatable({key: empty})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_dora", True),
        ("bias", "all"),
        ("modules_to_save", ["lm_head"]),
        ("trainable_token_indices", [1, 2]),
        ("loftq_config", {"loftq_bits": 4}),
        ("layer_replication", [[0, 4]]),
    ],
)
def test_what_is_no_additive_delta_is_refused_with_its_reason(key: str, value: Any) -> None:
    with pytest.raises(AdapterError) as caught:
        check_negatable({"r": 8, key: value}, where="adapter/adapter_config.json")
    assert MUST_BE_EMPTY[key] in str(caught.value)
    assert str(caught.value).startswith(f"adapter/adapter_config.json: {key} is {value!r}")
    assert key in (caught.value.remedy or "")


def test_a_key_of_a_later_peft_is_refused_until_it_is_known() -> None:
    with pytest.raises(AdapterError, match="use_quantum is True, which cannot be negated"):
        check_negatable({"use_quantum": True})


@pytest.mark.parametrize("key", sorted(FREE_KEYS - {"init_lora_weights"}))
def test_a_free_key_may_hold_anything(key: str) -> None:
    check_negatable({key: {"anything": 1}})


def test_where_and_how_strongly_the_delta_applies_is_free() -> None:
    check_negatable(
        {
            "r": 8,
            "lora_alpha": 16,
            "use_rslora": True,
            "rank_pattern": {"q_proj": 4},
            "alpha_pattern": {"q_proj": 8},
            "layers_to_transform": [0, 1],
            "eva_config": {"rho": 2.0},
        }
    )


@pytest.mark.parametrize("initialisation", [True, False, "gaussian", "eva"])
def test_an_initialisation_that_keeps_the_base_is_accepted(initialisation: bool | str) -> None:
    check_negatable({"init_lora_weights": initialisation})


@pytest.mark.parametrize(
    "initialisation", ["pissa", "pissa_niter_4", "olora", "corda", "loftq", "orthogonal", None]
)
def test_an_initialisation_that_changes_the_base_is_refused(initialisation: str | None) -> None:
    with pytest.raises(AdapterError, match="changes the base weights"):
        check_negatable({"init_lora_weights": initialisation})


def test_no_key_is_both_free_and_bound() -> None:
    assert not FREE_KEYS & MUST_BE_EMPTY.keys()
