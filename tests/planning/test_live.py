"""Live bytes: counted from the operation that makes a storage to its end."""

import torch

from lora_sku.planning.live import LiveBytes

MB = 10**6


def test_a_storage_counts_once_and_until_its_last_view_is_gone() -> None:
    with LiveBytes() as live:
        a = torch.zeros(MB)
        view = a[: MB // 2].view(-1, 2)
        assert live.current == 4 * MB
        del a
        assert live.current == 4 * MB
        del view
        assert live.current == 0
    assert live.peak == 4 * MB


def test_what_was_there_before_is_not_counted_nor_what_is_done_in_place() -> None:
    before = torch.zeros(MB)
    with LiveBytes() as live:
        before.add_(1)
        half = before[: MB // 2]
        assert live.current == 0
        copy = half + 1
        assert live.current == copy.nbytes
        live.reset_peak()
        del copy
    assert (live.current, live.peak) == (0, 2 * MB)


def test_the_backward_pass_and_saved_tensors_count() -> None:
    weight = torch.zeros(MB, requires_grad=True)
    with LiveBytes() as live:
        loss = (weight * 2).exp().sum()  # exp keeps its result
        assert live.current == 4 * MB + loss.nbytes
        live.reset_peak()
        loss.backward()
        assert live.peak > 8 * MB
        del loss
        assert live.current == 4 * MB  # the gradient


def test_meta_tensors_count_as_real_ones_would() -> None:
    peaks = []
    for device in ("cpu", "meta"):
        x = torch.empty(64, 64, device=device, requires_grad=True)
        with LiveBytes() as live:
            torch.nn.functional.silu(x @ x).sum().backward()
        peaks.append(live.peak)
    assert peaks[0] == peaks[1] > 0
