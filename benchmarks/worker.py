"""What a process of its own begins with: the libraries' advice off, before they are loaded."""

import pickle
from multiprocessing.connection import Connection

from lora_sku.quiet import quiet_models


def serve(parent: Connection, pickled: bytes) -> None:
    """Call what ``pickled`` holds with the connection; unpickling it loads its modules."""
    quiet_models()
    pickle.loads(pickled)(parent)
