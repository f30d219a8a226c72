"""Bytes of live tensors, counted on a CPU that stands in for a device with a memory of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from training import memory
from training.swap import Swap


class LiveBytes(TorchDispatchMode):
    """Within it, what operations make is counted for as long as anything holds it.

    Tensors from before are not counted, nor what kernels use inside. `peak` is the most at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._made: dict[StorageWeakRef, int] = {}
        self._given: set[StorageWeakRef] = set()

    @property
    def now(self) -> int:
        """Bytes alive."""
        self._made = {made: size for made, size in self._made.items() if not made.expired()}
        return sum(self._made.values())

    def add(self, tensor: Tensor) -> None:
        """Count this tensor, too."""
        self._made |= self._storages(tensor)
        self.peak = max(self.peak, self.now)

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self._given.update(self._storages((args, kwargs)).keys() - self._made.keys())
        result = operation(*args, **(kwargs or {}))
        made = self._storages(result)
        self._made |= {key: size for key, size in made.items() if key not in self._given}
        self.peak = max(self.peak, self.now)
        return result

    @staticmethod
    def _storages(values: object) -> dict[StorageWeakRef, int]:
        """The memory of the tensors in nested values, with its size in bytes."""
        found = (v.untyped_storage() for v in tree_leaves(values) if isinstance(v, Tensor))
        return {StorageWeakRef(storage): storage.nbytes() for storage in found}


@contextmanager
def standing_in() -> Iterator[LiveBytes]:
    """Counts within it what would be on the device: also swapped weights from their copy on, and
    offloaded activations only when they are back."""
    live = LiveBytes()
    copied, to_host, from_host = Swap._copied, memory.to_host, memory.from_host

    def arriving(swap: Swap, stored: Tensor):
        visit = copied(swap, stored)
        live.add(visit.bytes)
        return visit

    def leaving(tensor: Tensor) -> Tensor:
        with _disable_current_modes():
            return to_host(tensor)

    with (
        mock.patch.object(Swap, "_copied", arriving),
        mock.patch.object(memory, "to_host", leaving),
        mock.patch.object(memory, "from_host", lambda *args: from_host(*args).clone()),
        live,
    ):
        yield live
