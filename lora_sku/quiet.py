"""Other libraries' progress bars and advice, off; nothing is loaded before it is needed."""

import logging
import os
import warnings


def quiet_libraries() -> None:
    """Silence other libraries' progress bars and advice; their errors still come through.

    The hub's download bars stay: a person wants to see those.
    """
    # It warns of every model that is handed to it instead of loaded by it.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    quiet_models()
    import datasets

    datasets.disable_progress_bars()


def quiet_models() -> None:
    """The same for what builds models alone, without loading what reads data sets."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is imported
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft)\.")
    # It advises CPUs with AVX512 to install a package whose kernels have no gradient.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
