"""Which model answers, and how it is reached: a small YAML file, docs/captions.md shows some."""

from __future__ import annotations

import hashlib
import os
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from ...section import Section, UserPath, load_section
from ..step import NotReady

_OURS = ("model", "messages", "max_tokens", "max_completion_tokens", "response_format", "stream")
_PEEK = 2**20  # bytes of either end of a file of weights that tell it from others

HELP = (
    "name one by --model FILE, a YAML file with the base_url of an OpenAI-compatible server and a "
    "model's name, or with the folder of a model of transformers; docs/captions.md has examples"
)


class ModelSettings(Section):
    """A model behind an OpenAI-compatible server, or in a folder of transformers."""

    base_url: str | None = Field(
        None, description="server, up to and without /chat/completions, as http://localhost:8000/v1"
    )
    model: str | None = Field(
        None, max_length=200, description="name by which the server knows the model"
    )
    folder: UserPath | None = Field(
        None, description="a local model of transformers, instead of base_url and model"
    )
    api_key_env: str | None = Field(
        None, description="environment variable that holds the API key; the key itself goes nowhere"
    )
    temperature: float | None = Field(0.0, ge=0, le=2, description="null leaves it to the server")
    answer_format: Literal["json_schema", "json_object", "text"] = Field(
        "json_schema", description="how the server is told to answer in JSON; text: by the prompt"
    )
    max_tokens_key: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="what the server calls the limit of an answer"
    )
    extra: dict[str, Any] = Field({}, description="more fields of each request, as the server's")
    timeout: float = Field(120.0, gt=0, le=3600, description="seconds for one answer")
    patience: float = Field(
        300.0, ge=0, le=86400, description="seconds that a busy or unreachable server is waited for"
    )
    first_wait: float = Field(1.0, gt=0, le=60, description="seconds before the first repetition")
    price_in: float = Field(0.0, ge=0, description="of a million tokens of prompt")
    price_out: float = Field(0.0, ge=0, description="of a million tokens of answer")

    @field_validator("base_url")
    @classmethod
    def _check_url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected http:// or https:// and a host")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("expected no password, no ? and no #: keys go through api_key_env")
        return url.rstrip("/")

    @field_validator("extra")
    @classmethod
    def _check_extra(cls, extra: dict[str, Any]) -> dict[str, Any]:
        for key in _OURS:
            if key in extra:
                raise ValueError(f"{key} is not to be set here")
        return extra

    @model_validator(mode="after")
    def _check_one_place(self) -> ModelSettings:
        if (self.folder is None) == (self.base_url is None):
            raise ValueError("expected either base_url or folder")
        if self.base_url and not self.model:
            raise ValueError("model is missing: the name by which the server knows the model")
        if self.folder and (self.model or self.api_key_env):
            raise ValueError("model and api_key_env are of a server: leave them out with folder")
        return self

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    @classmethod
    def load(cls, path: Path) -> ModelSettings:
        """From a YAML file. Raises ValueError of one line naming the file and each bad key."""
        return load_section(cls, path)

    @cached_property
    def identity(self) -> str:
        """What rows call the model: the server's name, or the folder's and a digest of its files.

        Of large files only the ends are read, which tells weights from others of the same layout.
        """
        if self.folder is None:
            return self.model
        digest = hashlib.sha256()
        for path in sorted(
            p for p in self.folder.iterdir() if p.suffix in (".json", ".safetensors")
        ):
            size = path.stat().st_size
            digest.update(f"{path.name} {size}\n".encode())
            with open(path, "rb") as file:
                digest.update(file.read(_PEEK))
                file.seek(max(_PEEK, size - _PEEK))
                digest.update(file.read(_PEEK))
        return f"{self.folder.resolve().name}@{digest.hexdigest()[:12]}"

    def stamp(self) -> dict[str, Any]:
        """What decides the answers. Where the model is and what it costs does not."""
        stamp: dict[str, Any] = {"model": self.identity, "temperature": self.temperature}
        if self.folder is None:
            stamp["answer_format"] = self.answer_format
            if self.extra:
                stamp["extra"] = self.extra
        return stamp

    def api_key(self) -> str | None:
        """The key, from the environment. Raises NotReady where the variable is not set, or holds
        what no header can."""
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise NotReady(
                f"the environment variable {self.api_key_env} (api_key_env) is not set: "
                f"set it to the API key of {self.base_url}"
            )
        if not (key.isascii() and key.isprintable()):
            raise NotReady(
                f"the environment variable {self.api_key_env} (api_key_env) holds a line break or "
                f"letters that are not ASCII: set it to the API key of {self.base_url} alone"
            )
        return key

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """In the currency of the prices."""
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6
