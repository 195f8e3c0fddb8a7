"""Mean-pooled sentence vectors of a tiny encoder, against one sentence at a time."""

from pathlib import Path

import pytest
import torch
from tiny import VOCABULARY, make_tokenizer
from transformers import AutoModel, BertConfig, BertModel

from lora_sku.errors import JudgeError, SourceError
from lora_sku.judges.embeddings import SentenceEncoder

CPU = torch.device("cpu")
SENTENCES = ["Leave the cake in the rain.", "Why?", "It is green and yellow and blue and red."]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,
    )
    BertModel(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def test_vectors_are_the_mean_state_of_each_sentence_at_length_one(bert: Path) -> None:
    vectors = SentenceEncoder(str(bert), revision=None, device=CPU).embed(SENTENCES)
    model, tokenizer = AutoModel.from_pretrained(bert).eval(), make_tokenizer()
    for sentence, vector in zip(SENTENCES, vectors, strict=True):
        with torch.no_grad():
            ids = torch.tensor([tokenizer(sentence)["input_ids"]])
            mean = model(input_ids=ids).last_hidden_state[0].mean(0)
        torch.testing.assert_close(vector, mean / mean.norm(), atol=1e-5, rtol=1e-4)
    assert float(vectors[0] @ vectors[1]) < 0.99


def test_more_sentences_than_a_batch_keep_their_order(bert: Path) -> None:
    encoder = SentenceEncoder(str(bert), revision=None, device=CPU)
    vectors = encoder.embed([*SENTENCES * 15])
    assert vectors.shape == (45, 32)
    torch.testing.assert_close(vectors[:3], vectors[-3:], atol=1e-5, rtol=1e-4)


def test_a_folder_without_a_model_is_refused(tmp_path: Path, bert: Path) -> None:
    with pytest.raises(SourceError, match=r"no \.safetensors weights"):
        SentenceEncoder(str(tmp_path), revision=None, device=CPU)
    (tmp_path / "model.safetensors").write_bytes((bert / "model.safetensors").read_bytes())
    with pytest.raises(JudgeError, match="cannot load this encoder"):
        SentenceEncoder(str(tmp_path), revision=None, device=CPU)
