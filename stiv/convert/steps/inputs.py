"""Steps of what the network reads and gives: latents, text, micro conditions, an image."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ...config import STIVConfig
from .step import EVERYTHING, Aim, Make, Step, Tensors, below, fresh, rewrite, wide, zeros


def latent_channels(before: STIVConfig, aim: Aim) -> Step | None:
    """Latents of more or fewer channels.

    The patch embedding sums over channels, so a new channel whose weights are zero adds nothing,
    and the output has a row for each channel, so those of the old ones stay as they are; rows of
    new channels are zero. The channels that both have come out exactly as before, when channels
    that are dropped were zero.
    """
    old, new = before.latent_channels, aim.config.latent_channels
    if old == new:
        return None
    after = replace(before, latent_channels=new)
    names = ["patch_embed.weight", "final.linear.weight", "final.linear.bias"]
    if before.image_cross_attention:
        names.append("image_embed.weight")

    def resized(tensors: Tensors, name: str) -> Tensor:
        rows = "(v c) ... -> c v ..." if name.startswith("final") else "d (c v) -> c v d"
        back = "c v ... -> (v c) ..." if name.startswith("final") else "c v d -> d (c v)"
        parts = rearrange(wide(tensors[name]), rows, c=old)
        grown = parts.new_zeros(new, *parts.shape[1:])
        grown[: min(old, new)] = parts[:new]
        return rearrange(grown, back)

    more = new > old
    return Step(
        name="latent channels",
        does=f"{old} become {new}: "
        + ("the new ones are not read and come out as zero" if more else "the last are dropped"),
        after=after,
        apply=lambda tensors: rewrite(
            tensors, after, {name: partial(resized, tensors, name) for name in names}
        ),
        exact=f"the first {min(old, new)} channels"
        + ("" if more else " where the others are zero"),
        trained=tuple(dict.fromkeys(name.rpartition(".")[0] for name in names)),
    )


def latent_space(before: STIVConfig, aim: Aim) -> Step | None:
    """Latents of another VAE: the network stays as it is, but its numbers mean something else."""
    if aim.latents is None:
        return None
    old, new = aim.latents
    return Step(
        name="latent space",
        does=f"latents of {old} become those of {new}",
        after=before,
        exact=EVERYTHING,
        trained=("patch_embed", "final.linear"),
    )


def text_encoder(before: STIVConfig, aim: Aim) -> Step | None:
    """Another text encoder: the network stays as it is, but has to learn what the states say."""
    if aim.encoders is None or aim.encoders[0] == aim.encoders[1]:
        return None
    old, new = aim.encoders
    return Step(
        name="text encoder",
        does=f"prompts of {old} become those of {new}",
        after=before,
        exact=EVERYTHING,
        trained=tuple(
            part
            for part, there in (
                ("text_embed", True),
                ("pooled_embed", before.pooled_width),
                ("null_text", before.null_text_tokens),
            )
            if there
        ),
    )


def text_width(before: STIVConfig, aim: Aim) -> Step | None:
    """Token states of another width.

    Between spaces of different encoders there is no map that is known before training, so the
    first layer of the text embedding is new and random; its bias and the layers after it stay,
    and with them the space that cross-attention reads.
    """
    old, new = before.text_width, aim.config.text_width
    if old == new:
        return None
    after = replace(before, text_width=new)
    names = ["text_embed.fc1.weight", *(["null_text"] if before.null_text_tokens else [])]
    return Step(
        name="text width",
        does=f"states of {old} numbers become {new}: the first layer that reads them is new",
        after=after,
        apply=lambda tensors: rewrite(
            tensors, after, {name: partial(fresh, after, name, aim.seed) for name in names}
        ),
        trained=("text_embed", *names[1:]),
    )


def null_text(before: STIVConfig, aim: Aim) -> Step | None:
    """The text that stands for no prompt.

    The network is given it from outside and never reads it itself, so its output for any text
    stays. Without one of its own the encoder's states of the empty prompt stand for no prompt,
    which a model that was trained otherwise has to learn (by dropped captions).
    """
    old, new = before.null_text_tokens, aim.config.null_text_tokens
    if old == new:
        return None
    after = replace(before, null_text_tokens=new)

    def resized(tensors: Tensors) -> Tensor:
        rows = fresh(after, "null_text", aim.seed)
        if old:
            rows[:old] = wide(tensors["null_text"])[:new]
        return rows

    return Step(
        name="null text",
        does=f"{old} tokens of its own for no prompt become {new}"
        + ("" if new else ": the encoder's empty prompt takes their place"),
        after=after,
        apply=lambda tensors: rewrite(
            tensors, after, {"null_text": partial(resized, tensors)} if new else {}
        ),
        exact="every prompt",
        trained=("null_text",) if new else ("text_embed", "blocks.*.cross_attn"),
        keeps="nothing",
    )


def pooled_text(before: STIVConfig, aim: Aim) -> Step | None:
    """The pooled text embedding in the singleton condition.

    A new one has a last layer of zero: it adds zero to the condition, with condition norm too,
    since LN(0) = 0. Another width is read by a first layer of zero, so that all pooled texts give
    what none gave. One that goes leaves what it gave for none in the time embedding's bias, which
    is exact where no part is normalised before the sum.
    """
    old, new = before.pooled_width, aim.config.pooled_width
    if old == new:
        return None
    after = replace(before, pooled_width=new)

    def apply(tensors: Tensors) -> Tensors:
        if not old:
            return rewrite(tensors, after, silent(after, "pooled_embed.", aim.seed))
        if new:
            name = "pooled_embed.fc1.weight"
            return rewrite(tensors, after, {name: partial(zeros, after, name)})
        made = {"time_embed.fc2.bias": partial(_with_pooled, tensors)}
        return rewrite(tensors, after, {} if before.condition_norm else made)

    if not old:
        does, exact = f"an embedding of {new} numbers is added with an output of zero", EVERYTHING
    elif new:
        does, exact = (
            f"{old} numbers become {new}: the first layer is zero",
            "inputs without pooled text",
        )
    else:
        does = f"the embedding of {old} numbers goes; what it gave for no text stays"
        exact = "" if before.condition_norm else "inputs without pooled text"
    return Step(
        name="pooled text",
        does=does,
        after=after,
        apply=apply,
        exact=exact,
        trained=("pooled_embed",) if new else ("time_embed", "modulation", "blocks.*.modulation"),
        keeps="nothing" if old else "tasks",
    )


def micro_conditions(before: STIVConfig, aim: Aim) -> Step | None:
    """Embeddings of size, crop, stride and number of frames in the singleton condition.

    Their last layers are zero, so each adds zero to the condition, with condition norm too, since
    LN(0) = 0.
    """
    if before.micro_conditions or not aim.config.micro_conditions:
        return None
    after = replace(before, micro_conditions=True)
    return Step(
        name="micro conditions",
        does="embeddings of size, crop, stride and frames are added with an output of zero",
        after=after,
        apply=lambda tensors: rewrite(tensors, after, silent(after, "micro_embed.", aim.seed)),
        exact=EVERYTHING,
        trained=("micro_embed",),
        keeps="tasks",
    )


def image_tokens(before: STIVConfig, aim: Aim) -> Step | None:
    """Tokens of a clean image next to the text (ablation).

    Without an image there are none, so nothing changes. With one they take part in a softmax,
    where even zeros have weight: that has to be learned.
    """
    if before.image_cross_attention == aim.config.image_cross_attention:
        return None
    after = replace(before, image_cross_attention=aim.config.image_cross_attention)
    name, is_new = "image_embed.", after.image_cross_attention
    made = {part: partial(fresh, after, part, aim.seed) for part in below(after, [name])}
    return Step(
        name="image cross-attention",
        does="an embedding of image tokens is added" if is_new else "the image's tokens go",
        after=after,
        apply=lambda tensors: rewrite(tensors, after, made),
        exact="inputs without an image",
        trained=("image_embed", "blocks.*.cross_attn") if is_new else (),
        keeps="tasks",
    )


def velocity(before: STIVConfig, aim: Aim) -> Step | None:
    """From noise to velocity: the last layer is negated.

    The paper's F gives data - noise, diffusion's eps gives noise. -eps has the noise with the
    right sign and size from the first step; the data has to be learned, and so has the straight
    path's x_t, whose share of data and noise at a time is not the diffusion's.
    """
    if not aim.velocity:
        return None
    names = ("final.linear.weight", "final.linear.bias")
    return Step(
        name="velocity",
        does="the last layer is negated: where noise was predicted, data - noise will be",
        after=before,
        apply=lambda tensors: rewrite(
            tensors, before, {name: lambda name=name: -tensors[name] for name in names}
        ),
        trained=("all",),
        sign=-1,
    )


def silent(config: STIVConfig, prefix: str, seed: int) -> dict[str, Make]:
    """New embeddings: random first layers, last layers of zero."""
    return {
        name: partial(zeros, config, name)
        if ".fc2." in name
        else partial(fresh, config, name, seed)
        for name in below(config, [prefix])
    }


def _with_pooled(tensors: Tensors) -> Tensor:
    """The time embedding's last bias with what the pooled embedding gives for zeros."""
    hidden = F.silu(wide(tensors["pooled_embed.fc1.bias"]))
    added = wide(tensors["pooled_embed.fc2.weight"]) @ hidden
    return wide(tensors["time_embed.fc2.bias"]) + added + wide(tensors["pooled_embed.fc2.bias"])
