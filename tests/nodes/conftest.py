"""Fixtures on a tiny checkpoint. The host is imported when a test asks for it, not before."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from ComfyUI_STIV.nodes.host.pieces import Piece

    from tests.nodes.scenes import Loaded, Scene


@pytest.fixture(scope="session", autouse=True)
def quiet() -> None:
    import comfy.utils

    comfy.utils.set_progress_bar_enabled(False)
    logging.getLogger().setLevel(logging.WARNING)
    torch.set_num_threads(1)  # the tensors are tiny: threads would only wait for each other


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    """As the host runs nodes."""
    with torch.inference_mode():
        yield


@pytest.fixture(scope="session")
def folders() -> dict[str, Path]:
    """The host's model folders, made."""
    import folder_paths

    names = ("checkpoints", "diffusion_models", "loras", "embeddings")
    paths = {name: Path(folder_paths.get_folder_paths(name)[-1]) for name in names}
    for path in paths.values():
        path.mkdir(parents=True, exist_ok=True)
    return paths


@pytest.fixture(scope="session")
def loaded(folders: dict[str, Path]) -> Loaded:
    """The tiny checkpoint through STIV Load Checkpoint."""
    from tests.nodes import scenes, tiny

    return scenes.load(tiny.write(folders["checkpoints"] / "tiny.safetensors"))


@pytest.fixture(scope="session")
def scene(loaded: Loaded) -> Scene:
    """Image to video: the first frame given."""
    return loaded.scene("first")


@pytest.fixture(scope="session")
def made() -> list[Piece]:
    """The pieces of the film in `tests.nodes.films`."""
    from tests.nodes import films, moving

    return moving.pieces(films.LENGTHS, 8)
