"""Idle threads: the user's own settings win."""

import os

import pytest

from lora_sku.threads import KERNELS, SPINS, keep_few_kernels, wait_briefly


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        monkeypatch.setenv(name, "")  # so that what is set below goes afterwards
        monkeypatch.delenv(name)


def test_idle_threads_spin_for_a_short_while() -> None:
    wait_briefly()
    assert os.environ["GOMP_SPINCOUNT"] == SPINS
    assert "OMP_WAIT_POLICY" not in os.environ


@pytest.mark.parametrize(
    ("name", "value"), [("OMP_WAIT_POLICY", "PASSIVE"), ("GOMP_SPINCOUNT", "7")]
)
def test_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    before = dict(os.environ)
    wait_briefly()
    assert os.environ == before


def test_few_kernels_are_kept_unless_the_user_wants_another_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keep_few_kernels()
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == KERNELS
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "7")
    keep_few_kernels()
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "7"
