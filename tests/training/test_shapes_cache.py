"""The latent cache: round trip, resuming, provenance, reversal."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.training.vaes import make_vae
from training.codec import SpaceCodec
from training.encoders.vae import FrameVAE
from training.shapes.cache import encode_clips, write_stats
from training.shapes.captions import MOTION_WORDS, caption
from training.shapes.dataset import ShapesDataset
from training.shapes.render import render_clips
from training.shapes.scene import scene_from_seed


def _vae(seed: int) -> FrameVAE:
    return make_vae(seed, (4, 4, 4, 8))


def _encode(vae, out, split, count):
    return encode_clips(vae, out, split, count, frames=4, shard=8, low_precision=False)


def latents(data: ShapesDataset, indices) -> torch.Tensor:
    ((bucket, _),) = data.buckets.items()
    return torch.stack([torch.from_numpy(data.load(bucket, i).latents) for i in indices])


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    out = tmp_path_factory.mktemp("latents")
    _encode(_vae(0), out, "held_out", 5)
    write_stats(out, _encode(_vae(0), out, "train", 20))
    return out


def test_latents_are_the_vaes_and_normalised(cache_dir):
    data, vae = ShapesDataset(cache_dir), _vae(0)
    assert len(data) == 20 and data.provenance["vae"] == vae.hash
    z = latents(data, range(20))
    assert z.shape == (20, 4, 4, 8, 8) and z.dtype == torch.float32
    assert torch.allclose(z.mean((0, 2, 3, 4)), torch.zeros(4), atol=1e-2)
    assert torch.allclose(z.std((0, 2, 3, 4)), torch.ones(4), atol=1e-2)
    clips = render_clips([scene_from_seed(s) for s in (3, 11)], frames=4)
    codec = SpaceCodec(vae, {"shift": data.shift, "scale": data.scale})
    assert torch.allclose(codec.encode(clips), latents(data, [3, 11]), atol=0.02)
    decoded = codec.decode(codec.encode(clips))
    assert decoded.shape == clips.shape and decoded.dtype == np.uint8
    images = torch.from_numpy(clips[0]).permute(0, 3, 1, 2) / 127.5 - 1
    direct = vae.network.decode(vae.network.encode(images))
    levels = direct.add(1).mul(127.5).round().clamp(0, 255).permute(0, 2, 3, 1)
    assert np.abs(levels.numpy() - decoded[0]).max() <= 1


def test_scenes_and_captions_belong_to_the_clips(cache_dir):
    data = ShapesDataset(cache_dir, "held_out")
    assert len(data) == 5
    assert data.scene(4) == scene_from_seed(4, "held_out")
    expected = caption(data.scene(4), np.random.default_rng((4, 11)))
    assert data.captions(4)[0] == data.load("4x8x8", 4).captions[0] == expected


def test_a_stopped_run_is_taken_up(cache_dir, tmp_path):
    paths = _encode(_vae(0), tmp_path, "train", 20)
    assert [p.name for p in paths] == [f"train-{n:06d}.safetensors" for n in (0, 8, 16)]
    kept, content = paths[0].stat().st_mtime_ns, load_file(paths[1])
    paths[1].unlink()
    assert _encode(_vae(0), tmp_path, "train", 22) == paths  # the last shard grows
    assert paths[0].stat().st_mtime_ns == kept
    again = load_file(paths[1])
    assert all(torch.equal(again[name], tensor) for name, tensor in content.items())
    write_stats(tmp_path, paths)
    assert len(ShapesDataset(tmp_path)) == 22
    assert not list(tmp_path.glob("*.part"))


def test_clips_of_another_vae_are_refused_and_made_again(tmp_path):
    write_stats(tmp_path, _encode(_vae(0), tmp_path, "train", 3))
    first = ShapesDataset(tmp_path).raw
    shards = _encode(_vae(1), tmp_path, "train", 3)
    with pytest.raises(ValueError, match=r"train-000000\.safetensors .* not made alike"):
        ShapesDataset(tmp_path)
    write_stats(tmp_path, shards)
    assert not torch.equal(ShapesDataset(tmp_path).raw, first)


def test_an_unfinished_cache_is_named(tmp_path):
    with pytest.raises(ValueError, match="holds no finished 'train' clips"):
        ShapesDataset(tmp_path)


def test_reversals_are_exact_and_stay_in_the_split(cache_dir):
    plain, data = ShapesDataset(cache_dir), ShapesDataset(cache_dir, reverse=True)
    assert len(plain) < len(data) < 2 * len(plain)
    for index in range(len(plain), len(data)):
        scene = data.scene(index)
        assert not scene.is_held_out()
        row = next(i for i in range(len(plain)) if plain.scene(i) == scene_of_reversal(scene))
        assert torch.equal(latents(data, [index])[0], latents(plain, [row])[0].flip(1))
        for text in data.captions(index):
            for item in scene.objects:
                assert any(p in text for pair in MOTION_WORDS[item.motion] for p in pair)


def scene_of_reversal(scene):
    """The stored scene that plays backwards as `scene` (rounding in x and y aside)."""
    stored = [scene_from_seed(s) for s in range(20)]
    return next(s for s in stored if s.reverse() == scene)
