"""Only the benchmarks' own words reach the terminal."""

import logging
import warnings

from lora_sku.quiet import quiet_transformers


def quiet_libraries() -> None:
    """Silence other libraries' progress bars and advice; their errors still come through."""
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft)\.")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    quiet_transformers()
