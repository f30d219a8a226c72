"""The frozen text encoder, from the file that ComfyUI's users have, with ComfyUI's numbers.

What comes out is what a graph of *Load CLIP* and *STIV Text Encode* hands to the model, without
the padding:

- `clip_g` (Load CLIP, type `stable_diffusion`): the hidden states before the last layer, without
  the final norm; pooled is the last layer's state at the end token, normed and projected. Chunks
  of 77 tokens; the tower is causal, so padding to the right changes nothing.
- `t5xxl` (Load CLIP, types `stable_diffusion`, `mochi` or `pixart`): the last layer's states,
  normed, padding hidden from attention; nothing pooled. The type `sd3` lets padding take part in
  attention and gives other numbers: do not use it with a model trained here.

Captions are taken literally: round brackets are no weights and `embedding:` is no file, as if a
user had written `\\(` and `\\)`.

Shapes: L tokens of a caption, W width of a token's state, P width of the pooled state.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stiv.checkpoint import tensor_hash
from stiv.header import CheckpointError
from stiv.public import TEXT_ENCODERS

from .files import Path_, cast, check_dtypes, load_weights, on_meta, open_header, read_tensors

CLIP_CHUNK = 77
_HEAD = 64  # channels of an attention head in both towers
_TOKENIZERS = {
    "clip_g": ("comfy/sd1_tokenizer", ("vocab.json", "merges.txt")),
    "t5xxl": ("comfy/text_encoders/t5_tokenizer", ("tokenizer.json",)),
}
_WORDS = {  # the table of words, which every file of the kind has
    "clip_g": "text_model.embeddings.token_embedding.weight",
    "t5xxl": "shared.weight",
}
_PACK = Path(__file__).resolve().parents[2]

Encoded = tuple[Tensor, Tensor | None]


class FrozenText:
    """A frozen text encoder.

    Attributes:
        name: "clip_g" or "t5xxl".
        hash: SHA-256 over the tensors as stored in the file.
        width: W. pooled_width: P, 0 where nothing is pooled.
        max_tokens: longest encoding of a caption, special tokens included; longer ones are cut.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]],
        tokenize: Callable[[str], list[list[int]]],
        *,
        digest: str,
        width: int,
        pooled_width: int,
        max_tokens: int,
        device: torch.device | str = "cpu",
        batch: int = 16,
    ) -> None:
        self.name, self.hash = name, digest
        self.width, self.pooled_width, self.max_tokens = width, pooled_width, max_tokens
        self.device, self.batch = torch.device(device), batch
        self._run, self._tokenize = run, tokenize

    @property
    def text(self) -> dict[str, Any]:
        """The encoder as a model card names it, see `stiv.public.TEXT_ENCODERS`."""
        return {
            "encoder": self.name,
            "width": self.width,
            "pooled_width": self.pooled_width,
            "max_tokens": self.max_tokens,
        }

    def tokens(self, caption: str) -> list[list[int]]:
        """The ids of a caption, special tokens included, in chunks that are encoded apart."""
        return self._tokenize(caption)

    @torch.inference_mode()
    def encode(self, captions: Sequence[str]) -> list[Encoded]:
        """(states (L, W), pooled (P,) or None) of every caption, float32 on the CPU.

        L is the caption's own number of tokens, special tokens included: no padding.
        """
        chunks = [(i, ids) for i, caption in enumerate(captions) for ids in self.tokens(caption)]
        # By length, so that little of a batch is padding; each result goes back to its place.
        order = sorted(range(len(chunks)), key=lambda k: len(chunks[k][1]))
        results: list[Encoded] = [(torch.empty(0), None)] * len(chunks)
        for start in range(0, len(order), self.batch):
            part = order[start : start + self.batch]
            for k, encoded in zip(part, self._encode([chunks[k][1] for k in part]), strict=True):
                results[k] = encoded
        joined: list[list[Encoded]] = [[] for _ in captions]
        for (i, _), encoded in zip(chunks, results, strict=True):
            joined[i].append(encoded)
        # As in the host, the pooled state is the first chunk's.
        return [(torch.cat([states for states, _ in one]), one[0][1]) for one in joined]

    def _encode(self, rows: list[list[int]]) -> list[Encoded]:
        lengths = [len(row) for row in rows]
        longest = max(lengths)
        ids_BL = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        mask_BL = torch.arange(longest) < torch.tensor(lengths)[:, None]
        states, pooled = self._run(ids_BL.to(self.device), mask_BL.to(self.device))
        states = states.float().cpu()
        pooled = None if pooled is None else pooled.float().cpu()
        return [
            (states[i, :length].clone(), None if pooled is None else pooled[i].clone())
            for i, length in enumerate(lengths)
        ]


def text_encoder_of(path: Path_) -> dict[str, Any] | None:
    """What a text encoder's file says of itself before any weight is read: encoder, width,
    pooled_width, as in a model card; None for other files.

    Towers of one build differ by their width: a clip_l is a clip_g 768 wide.

    Raises:
        CheckpointError: for anything but a sound safetensors file.
    """
    tensors = open_header(path).tensors
    for kind, name in _WORDS.items():
        if name in tensors and len(tensors[name].shape) == 2:
            width = tensors[name].shape[1]
            pooled = width if TEXT_ENCODERS[kind]["pooled_width"] else 0
            return {"encoder": kind, "width": width, "pooled_width": pooled}
    return None


def describe_text(text: Mapping[str, Any]) -> str:
    """A text encoder in words, from a model card's entry or `text_encoder_of`."""
    pooled = f", pooled {text['pooled_width']}" if text["pooled_width"] else ""
    return f"{text['encoder']}, {text['width']} wide{pooled}"


def open_text_encoder(
    kind: str,
    path: Path_,
    *,
    tokenizer: Path_ | None = None,
    max_tokens: int | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    batch: int = 16,
    any_size: bool = False,
) -> FrozenText:
    """Opens a text encoder of ComfyUI's `models/text_encoders`.

    Args:
        kind: "clip_g" or "t5xxl".
        path: the .safetensors file; fp32, fp16, bf16 or plain fp8 weights.
        tokenizer: folder with the tokenizer's files (vocab.json and merges.txt, or
            tokenizer.json). Default: the one that ComfyUI carries, where COMFYUI_PATH or the
            custom_nodes folder around this pack leads to it.
        max_tokens: longest encoding; default as in `TEXT_ENCODERS`. For clip_g a multiple of 77.
        device, dtype: where and in what to compute; the host computes in float32 whatever the
            file's dtype.
        batch: captions (or chunks) per forward pass.
        any_size: accept a tower that has not the published width.

    Raises:
        CheckpointError: when the file is no such encoder; missing and unknown tensors are named.
        ValueError: for an unknown kind, a bad length, or a tokenizer that is not found.
    """
    if kind not in _TOKENIZERS:
        raise ValueError(f"text encoder {kind!r}: expected one of {', '.join(_TOKENIZERS)}")
    limit = TEXT_ENCODERS[kind]["max_tokens"] if max_tokens is None else max_tokens
    if limit < 2 or (kind == "clip_g" and limit % CLIP_CHUNK):
        expected = f"a multiple of {CLIP_CHUNK}" if kind == "clip_g" else "at least 2"
        raise ValueError(f"max_tokens is {limit} for {kind}: expected {expected}")
    tokenize = _tokenizer(kind, tokenizer, limit)
    state = _read(path)
    digest = tensor_hash(state)
    build = _clip if kind == "clip_g" else _t5
    run, width, pooled_width = build(path, state, dtype, torch.device(device), any_size)
    return FrozenText(
        kind, run, tokenize, digest=digest, width=width, pooled_width=pooled_width,
        max_tokens=limit, device=device, batch=batch,
    )  # fmt: skip


def _read(path: Path_) -> dict[str, Tensor]:
    header = open_header(path)
    scaled = [n for n in header.tensors if "scaled_fp8" in n or n.endswith((".scale_weight",
              ".weight_scale", ".comfy_quant"))]  # fmt: skip
    if scaled:
        raise CheckpointError(
            path,
            f"is quantised with scales ({scaled[0]}); choose the fp16 file of the same encoder",
        )
    check_dtypes(path, header, header.tensors)
    return read_tensors(path, {name: name for name in header.tensors})


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    found = (re.match(pattern, name) for name in state)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


# clip_g ------------------------------------------------------------------------------------------


def _clip(path: Path_, state: dict[str, Tensor], dtype: torch.dtype, device: Any, any_size: bool):
    """What runs the tower, W and P."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    state = {n: t for n, t in state.items() if not n.endswith(("position_ids", "logit_scale"))}
    if "text_projection" in state:  # older files of the host's save node
        state["text_projection.weight"] = state.pop("text_projection").T.contiguous()
    word = _WORDS["clip_g"]
    fc1 = "text_model.encoder.layers.0.mlp.fc1.weight"
    depth = _count(state, r"text_model\.encoder\.layers\.(\d{1,3})\.")
    width = _width(path, state, "clip_g", any_size)
    if width == 768:
        raise CheckpointError(path, "is a clip_l, 768 wide; give the clip_g, 1280 wide")
    if depth < 2 or fc1 not in state:
        raise CheckpointError(path, f"holds {depth} layers of a CLIP text tower; get it again")
    config = CLIPTextConfig(
        vocab_size=state[word].shape[0],
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=width // _HEAD,
        intermediate_size=state[fc1].shape[0],
        projection_dim=width,
        max_position_embeddings=CLIP_CHUNK,
        hidden_act="gelu",
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=0,
    )
    model = on_meta(lambda: CLIPTextModelWithProjection(config))
    load_weights(path, model, cast(state, dtype), "clip_g text encoder")
    model.to(device)

    def run(ids_BL: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor]:
        # No mask: a causal tower never reads what stands to the right.
        out = model(input_ids=ids_BL, output_hidden_states=True)
        return out.hidden_states[-2], out.text_embeds

    return run, width, width


# t5xxl -------------------------------------------------------------------------------------------


def _t5(path: Path_, state: dict[str, Tensor], dtype: torch.dtype, device: Any, any_size: bool):
    """What runs the tower, W, and 0: nothing is pooled."""
    from transformers import T5Config, T5EncoderModel

    first = "encoder.block.0.layer"
    q, fc1 = f"{first}.0.SelfAttention.q.weight", f"{first}.1.DenseReluDense.wi_0.weight"
    bias = f"{first}.0.SelfAttention.relative_attention_bias.weight"
    width = _width(path, state, "t5xxl", any_size)
    for name in (q, fc1, bias):
        if name not in state or state[name].ndim != 2:
            raise CheckpointError(path, f"is no t5xxl encoder: tensor {name} is missing; choose "
                                  "the file of T5 XXL 1.1 as ComfyUI uses it")  # fmt: skip
    heads = state[bias].shape[1]
    config = T5Config(
        vocab_size=state["shared.weight"].shape[0],
        d_model=width,
        d_kv=state[q].shape[0] // max(1, heads),
        d_ff=state[fc1].shape[0],
        num_layers=_count(state, r"encoder\.block\.(\d{1,3})\."),
        num_heads=heads,
        relative_attention_num_buckets=state[bias].shape[0],
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        is_encoder_decoder=False,
        use_cache=False,
    )
    model = on_meta(lambda: T5EncoderModel(config))
    state = cast({n: t for n, t in state.items() if not n.startswith("decoder.")}, dtype)
    state["encoder.embed_tokens.weight"] = state["shared.weight"]  # files hold it once or twice
    load_weights(path, model, state, "t5xxl text encoder")
    model.to(device)

    def run(ids_BL: Tensor, mask_BL: Tensor) -> tuple[Tensor, None]:
        return model(input_ids=ids_BL, attention_mask=mask_BL.long()).last_hidden_state, None

    return run, width, 0


def _width(path: Path_, state: Mapping[str, Tensor], kind: str, any_size: bool) -> int:
    published, word = TEXT_ENCODERS[kind]["width"], _WORDS[kind]
    if word not in state or state[word].ndim != 2:
        raise CheckpointError(
            path, f"is no {kind} text encoder as ComfyUI stores it: tensor {word} is missing; "
            f"choose {kind}'s file from models/text_encoders",
        )  # fmt: skip
    width = state[word].shape[1]
    if width % _HEAD or (width != published and not any_size):
        raise CheckpointError(
            path, f"is {width} wide, {kind} is {published}: this is another encoder; choose "
            f"{kind}'s file",
        )  # fmt: skip
    return width


# Tokenizers --------------------------------------------------------------------------------------


def find_tokenizer(kind: str, folder: Path_ | None = None) -> Path:
    """The folder of a tokenizer's files: the one that is named, else the host's.

    Raises:
        ValueError: saying where it was looked for.
    """
    inside, files = _TOKENIZERS[kind]
    if folder is not None:
        places = [Path(folder).expanduser()]
    else:
        named = os.environ.get("COMFYUI_PATH")
        places = [Path(named).expanduser() / inside] if named else []
        if _PACK.parent.name == "custom_nodes":
            places.append(_PACK.parent.parent / inside)
    for place in places:
        if all((place / name).is_file() for name in files):
            return place
    looked = (
        ", ".join(map(str, places)) or "COMFYUI_PATH is not set, the pack is in no custom_nodes"
    )
    raise ValueError(
        f"{kind}: no tokenizer with {' and '.join(files)} ({looked}); set tokenizer to such a "
        f"folder (ComfyUI's is {inside}), or COMFYUI_PATH to the folder of ComfyUI"
    )


def _tokenizer(kind: str, folder: Path_ | None, limit: int) -> Callable[[str], list[list[int]]]:
    from transformers import CLIPTokenizer, T5TokenizerFast

    place = find_tokenizer(kind, folder)
    try:
        family = CLIPTokenizer if kind == "clip_g" else T5TokenizerFast
        tokenizer = family.from_pretrained(str(place), local_files_only=True)
    except Exception as error:  # whatever the library raises for a bad file
        raise ValueError(f"{place}: no {kind} tokenizer could be read: {error}") from error
    ids = _Ids(tokenizer)
    if kind == "t5xxl":
        end = ids("")[-1]
        return lambda caption: [[*_to_first(ids(caption)[:-1], end)[: limit - 1], end]]
    begin, end = ids("")[:2]

    def chunks(caption: str) -> list[list[int]]:
        words = _to_first(ids(caption)[1:-1], end)
        step = CLIP_CHUNK - 2
        starts = range(0, max(1, len(words)), step)
        return [[begin, *words[a : a + step], end] for a in starts][: limit // CLIP_CHUNK]

    return chunks


class _Ids:
    """Token ids of a text by a library's tokenizer, quiet about long texts: they are cut here."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, text: str) -> list[int]:
        return self.tokenizer(text, verbose=False)["input_ids"]


def _to_first(ids: list[int], end: int) -> list[int]:
    """The ids up to an end token that the text itself spells: the host too stops reading there."""
    return ids[: ids.index(end)] if end in ids else ids
