"""From a recipe's judges to judges that need no other model than their own."""

import torch

from lora_sku.judges.refusal import RefusalJudge
from lora_sku.judges.verdicts import Judge
from lora_sku.recipe_judges import JudgeName, JudgesSection, SimilaritySection


def text_judges(settings: JudgesSection) -> list[JudgeName]:
    """The recipe's judges that see texts only: all but compliance, which asks the base."""
    return [name for name in settings.judges if name != "compliance"]


def build_judge(name: JudgeName, settings: JudgesSection, device: torch.device) -> Judge:
    """Load one of `text_judges`.

    Args:
        name: Which one.
        settings: The recipe's.
        device: Where its model runs, if it has one.

    Raises:
        SourceError, ModelError, JudgeError: if its model cannot be found or loaded.
    """
    if name == "refusal":
        return RefusalJudge()
    if name == "similarity":
        return _similarity(settings.similarity, device)
    if name == "classifier":
        from lora_sku.judges.classifier import load_classifier

        return load_classifier(settings.classifier, device)
    assert name == "openai", name
    from lora_sku.judges.openai import OpenAIJudge

    return OpenAIJudge(settings.openai)


def _similarity(settings: SimilaritySection, device: torch.device) -> Judge:
    from lora_sku.judges.embeddings import SentenceEncoder
    from lora_sku.judges.similarity import SimilarityJudge

    if settings.embedding_model is None:
        return SimilarityJudge(settings)
    encoder = SentenceEncoder(
        settings.embedding_model, revision=settings.embedding_revision, device=device
    )
    return SimilarityJudge(settings, encoder)
