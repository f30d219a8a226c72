"""What an initialisation is made of: steps, the tensors that they make, and what they aim at."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...config import STIVConfig
from ...model import STIVTransformer
from ...shapes import expected_shapes
from ...tensor_file import LazyTensors, Tensors, described

Make = Callable[[], Tensor]
"""A tensor, in float32 or wider; `rewrite` gives it its dtype."""

EVERYTHING = "every input"
STILLS = "pictures and videos whose frames are all the same"


@dataclass(frozen=True, kw_only=True)
class Temporal:
    """The video model whose temporal attention a joint start takes."""

    tensors: Tensors
    config: STIVConfig
    tensor_hash: str | None = None


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What a start is to become."""

    config: STIVConfig
    """The network wanted."""
    depth_map: tuple[int | None, ...] | None = None
    """For every new block the source's block that it is a copy of, None for one that changes
    nothing; None in all: the same blocks."""
    temporal: Temporal | None = None
    """Whose temporal attention to take (joint start)."""
    velocity: bool = False
    """The source predicts noise and is to predict velocity."""
    latents: tuple[str, str] | None = None
    """The source's latent space and the new one, where they differ."""
    encoders: tuple[str, str] | None = None
    """The source's text encoder and the new one, where they differ."""
    seed: int = 0
    """Of what is new and random."""


def same(tensors: Tensors) -> Tensors:
    """The tensors as they are."""
    return tensors


@dataclass(frozen=True, kw_only=True)
class Step:
    """One named change on the way from a source to an aim."""

    name: str
    does: str
    """What is done, for people."""
    after: STIVConfig
    """The network that it leaves."""
    apply: Callable[[Tensors], Tensors] = same
    """The tensors of the network before to those of the network after; nothing is read yet."""
    exact: str = ""
    """The inputs for which the network gives the same output as before; "": for none."""
    trained: tuple[str, ...] = ()
    """Tensors, by the beginning of their names, that have to learn."""
    keeps: Literal["tasks", "pictures", "nothing"] = "nothing"
    """What the model can still do as before: all that it could, single frames, or nothing."""
    sign: Literal[1, -1] = 1
    """-1 where the output is wanted with the other sign."""
    parents: tuple[str | None, ...] = ()
    """Tensor hashes of checkpoints that it takes besides the source."""

    @property
    def changes_tensors(self) -> bool:
        """Whether it is more than another way to use the same tensors."""
        return self.apply is not same

    @property
    def promise(self) -> str:
        """What it keeps and what has to be trained, for people."""
        words = [f"exact for {self.exact}" if self.exact else "not exact"]
        if self.trained:
            words.append(f"to be trained: {', '.join(self.trained)}")
        return "; ".join(words)

    def line(self) -> str:
        """The step in one line."""
        return f"{self.name}: {self.does} ({self.promise})"

    def record(self) -> dict[str, Any]:
        """The step for a card."""
        return {
            "step": self.name,
            "does": self.does,
            "exact": self.exact,
            "trained": list(self.trained),
        }


def rewrite(
    tensors: Tensors,
    after: STIVConfig,
    made: Mapping[str, Make],
    copied: Mapping[str, str] | None = None,
) -> LazyTensors:
    """The tensors of the network `after`: those in `made` are made when asked for, others stay.

    copied: tensors that are another of the network before, by its name.

    Those made keep the dtype of the tensor of that name, or of the patch embedding for a new name;
    one of a byte becomes bfloat16. What the network has no place for is left out.
    """
    copied, known = copied or {}, described(tensors)

    def dtype(name: str) -> torch.dtype:
        found = known.get(copied.get(name, name), known["patch_embed.weight"]).dtype
        return torch.bfloat16 if found.itemsize == 1 and name in made else found

    new = {
        name: torch.empty(shape, dtype=dtype(name), device="meta")
        for name, shape in expected_shapes(after).items()
    }

    def make(name: str) -> Tensor:
        if name in made:
            return made[name]().to(new[name].dtype)
        return tensors[copied.get(name, name)]

    return LazyTensors(new, make)


def wide(tensor: Tensor) -> Tensor:
    """A tensor to compute with: at least float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def fresh(config: STIVConfig, name: str, seed: int) -> Tensor:
    """A tensor as an untrained network has it, by its own initialisation.

    The same for the same seed and name, whatever else is made: blocks are independent.
    """
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    # Tensors of an inference mode around it could not be initialised again later.
    with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
        model = _small(replace(config, depth=1, mask_decoder_blocks=1))
        path, _, leaf = _first(name).rpartition(".")
        module = model.get_submodule(path)
        empty = getattr(module, leaf)
        real = nn.Parameter(torch.empty(empty.shape))
        try:
            # All other tensors are on the meta device, where initialising costs nothing.
            setattr(module, leaf, real)
            torch.manual_seed(int.from_bytes(digest[:7], "big"))
            model.init_weights()
        finally:
            setattr(module, leaf, empty)
        return real.detach()


def zeros(config: STIVConfig, name: str) -> Tensor:
    """A tensor of zeros of the network's shape."""
    return torch.zeros(expected_shapes(config)[name])


def blocks(config: STIVConfig) -> list[str]:
    """The prefixes of all blocks, main ones first."""
    stacks = (("blocks", config.depth), ("decoder_blocks", config.mask_decoder_blocks))
    return [f"{stack}.{i}." for stack, count in stacks for i in range(count)]


def below(config: STIVConfig, prefixes: Iterable[str]) -> list[str]:
    """The network's tensors whose names begin with one of the prefixes."""
    return [name for name in expected_shapes(config) if name.startswith(tuple(prefixes))]


def _first(name: str) -> str:
    stack, dot, rest = name.partition(".")
    return f"{stack}.0.{rest.partition('.')[2]}" if stack.endswith("blocks") and dot else name


@lru_cache(maxsize=4)
def _small(config: STIVConfig) -> STIVTransformer:
    return STIVTransformer(config, device="meta")
