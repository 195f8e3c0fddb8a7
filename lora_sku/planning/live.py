"""Bytes of live tensors: a tensor's storage counts from the operation that makes it to its end.

On the meta device nothing is computed or stored, so the peak of a pass of any size is counted in
milliseconds, and it is the peak of the very code that runs.
"""

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside, every storage that an operation makes is counted until it is freed.

    What was made before counts as 0: weights, gradients, inputs. A storage is counted once, however
    many tensors view it. Backward passes count too: autograd runs a meta or CPU backward in the
    calling thread.

    Attributes:
        current: Bytes alive now.
        peak: The most there were since the last `reset_peak`.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.current = 0
        self.peak = 0
        self._counted: dict[int, weakref.ref[Any]] = {}

    def reset_peak(self) -> None:
        """Forget the peak so far."""
        self.peak = self.current

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        before = {id(storage) for storage in _storages((args, kwargs))}
        result = func(*args, **kwargs)
        for storage in _storages(result):
            if id(storage) not in before and id(storage) not in self._counted:
                self._count(storage)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()

        def freed(_: Any) -> None:
            self.current -= size
            del self._counted[key]

        # torch keeps the Python object of a storage alive as long as the storage itself.
        self._counted[key] = weakref.ref(storage, freed)
        self.current += size
        self.peak = max(self.peak, self.current)


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
