"""A model in a local folder of transformers: a vision-language model, or one of text alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from PIL import Image

from ...optional import need
from ..step import NotReady, Unavailable
from .settings import ModelSettings
from .turns import Completion, Turn


class LocalModel:
    """A model in a folder: its code is transformers', its weights safetensors.

    It is loaded with the first question, to the GPU if there is one, in the precision of its files.
    """

    def __init__(self, settings: ModelSettings):
        self.settings = settings

    def close(self) -> None:
        self.__dict__.pop("_loaded", None)

    def check(self, frames: bool) -> None:
        folder = self.settings.folder
        if not (folder / "config.json").is_file():
            raise NotReady(
                f"{folder} is no folder of a model (no config.json): download one, as "
                "`hf download OWNER/NAME --local-dir FOLDER` does; see docs/captions.md"
            )
        if not any(folder.glob("*.safetensors")):
            raise NotReady(f"{folder} holds no .safetensors: other weights are not loaded")
        try:
            sees = self._sees
        except (ValueError, KeyError, OSError) as error:
            raise NotReady(f"{folder}: transformers cannot read it: {error}") from None
        if frames and not sees:
            raise NotReady(f"{folder} is a model of text alone: frames need one that sees pictures")

    def complete(
        self, turns: Sequence[Turn], schema: dict[str, Any], max_tokens: int
    ) -> Completion:
        torch = need("torch")
        try:
            processor, model = self._loaded
        except Exception as error:
            raise Unavailable(f"{self.settings.folder} cannot be loaded: {error}") from error
        inputs = processor.apply_chat_template(
            [{"role": turn.role, "content": self._content(turn)} for turn in turns],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        inputs = inputs.to(model.device, model.dtype) if self._sees else inputs.to(model.device)
        given = inputs["input_ids"].shape[1]
        warm = {"temperature": self.settings.temperature} if self.settings.temperature else {}
        with torch.inference_mode():
            output = model.generate(
                **inputs, max_new_tokens=max_tokens, do_sample=bool(warm), **warm
            )
        new = output[0, given:]
        text = processor.decode(new, skip_special_tokens=True)
        ends = model.generation_config.eos_token_id
        ended = new[-1].item() in (ends if isinstance(ends, list) else [ends])
        return Completion(text, self.settings.identity, (given, len(new)), not ended)

    @cached_property
    def _sees(self) -> bool:
        transformers = need("transformers")
        config = transformers.AutoConfig.from_pretrained(self.settings.folder, **_LOCAL)
        return type(config) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    @cached_property
    def _loaded(self):
        torch, transformers = need("torch"), need("transformers")
        folder, sees = self.settings.folder, self._sees
        reader = transformers.AutoProcessor if sees else transformers.AutoTokenizer
        network = (
            transformers.AutoModelForImageTextToText if sees else transformers.AutoModelForCausalLM
        )
        processor = reader.from_pretrained(folder, **_LOCAL)
        if processor.chat_template is None:
            raise ValueError("it has no chat template: take one that was made for conversations")
        model = network.from_pretrained(folder, dtype="auto", use_safetensors=True, **_LOCAL)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return processor, model.eval().to(device)

    def _content(self, turn: Turn) -> str | list[dict[str, Any]]:
        if not self._sees:
            return turn.text
        pictures = [{"type": "image", "image": Image.fromarray(frame)} for frame in turn.frames]
        return [*pictures, {"type": "text", "text": turn.text}]


_LOCAL = {"local_files_only": True, "trust_remote_code": False}
