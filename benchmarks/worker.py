"""What a process of its own begins with: the libraries' advice off, before they are loaded."""

import pickle
from multiprocessing.connection import Connection

from benchmarks.quiet import quiet_libraries


def serve(parent: Connection, pickled: bytes) -> None:
    """Call what ``pickled`` holds with the connection; unpickling it loads its modules."""
    quiet_libraries()
    pickle.loads(pickled)(parent)
