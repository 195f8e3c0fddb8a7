"""Only the benchmarks' own words reach the terminal."""

import logging
import warnings


def quiet_libraries() -> None:
    """Silence other libraries' progress bars and advice; their errors still come through."""
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft)\.")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
