"""What a recipe leaves open becomes factors."""

from pathlib import Path

import pytest
import torch
from tiny import adapt, load, make_encoder, teach, write_data, write_protected

from lora_sku.activations import draw_texts, sample_inputs
from lora_sku.candidates import candidates
from lora_sku.data import load_data
from lora_sku.live_factors import LiveFactors
from lora_sku.model import ACQUIRED
from lora_sku.projection import projected_rows
from lora_sku.recipe import ProjectionSection


@pytest.mark.parametrize(("mu", "protected"), [("auto", 0), (10.0, 0), (10.0, 1)])
def test_the_live_rows_are_projected_by_the_training_splits(
    tiny_llama: Path, tmp_path: Path, mu: float | str, protected: int
) -> None:
    model = adapt(load(tiny_llama))
    teach(model)
    live, encoder = LiveFactors(model, ACQUIRED), make_encoder(model.base)
    protect = write_protected(tmp_path) if protected else {}
    data = load_data(write_data(tmp_path, protect=protect), encoder)
    section = ProjectionSection.model_validate({"mu": mu, "prompts": 4, "tokens": 30})
    normal = [splits.train for splits in data.normal.values()]
    found = candidates(model, live, data.forget.train, normal, encoder, section, rows=2, seed=3)
    assert tuple(found) == section.open_mus
    assert len(normal) == 1 + protected
    texts = draw_texts(data.forget.train, normal, encoder, prompts=4, tokens=30, seed=3)
    samples = sample_inputs(model, *texts, rows=2)
    expected = projected_rows(live.rows, samples, (10.0,), torch.device("cpu"))[10.0]
    rows = found[10.0]
    assert rows is not None
    assert rows.keys() == live.rows.keys()
    for path, row in rows.items():
        assert torch.equal(row, expected[path])
        assert not torch.equal(row, live.rows[path])
    again = candidates(model, live, data.forget.train, normal, encoder, section, rows=2, seed=3)[
        10.0
    ]
    assert again is not None
    assert all(torch.equal(again[path], row) for path, row in rows.items())
