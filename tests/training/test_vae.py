"""The training of the small VAE: it resumes, its batches and rates, and the file opens."""

from __future__ import annotations

import json

import pytest
import torch

from training import vae as vae_module
from training.encoders.taesd import TinyVAE, encoder_hash
from training.encoders.vae import open_vae
from training.vae import (
    VAETraining,
    main,
    psnr,
    save_vae,
    score,
    smooth_pictures,
    train,
    training_batch,
)

TINY = VAETraining(widths=(4, 6, 8, 10), blocks=1, steps=5, restart=2, batch=4, dtype="float32")


def test_a_saved_vae_opens_at_its_own_width_and_is_scored(tmp_path, capsys):
    vae = TinyVAE(TINY.widths, 4, TINY.blocks)
    save_vae(vae, tmp_path / "vae.safetensors", TINY)
    opened = open_vae(tmp_path / "vae.safetensors")
    loaded = opened.network
    assert opened.recipe["widths"] == list(TINY.widths)
    assert encoder_hash(loaded) == encoder_hash(vae)
    assert loaded.taesd_encoder[0].out_channels == 4
    image = torch.rand(1, 3, 16, 16)
    assert torch.allclose(loaded.decode(loaded.encode(image)), vae.decode(vae.encode(image)))
    main(["score", "--vae", str(tmp_path / "vae.safetensors")])
    assert json.loads(capsys.readouterr().out) == score(vae, clips=32)


def test_training_resumes_to_the_same_weights(tmp_path, monkeypatch):
    whole = train(TINY, tmp_path / "whole.safetensors")

    def stop_at_three(config: VAETraining, step: int) -> torch.Tensor:
        if step == 3:
            raise KeyboardInterrupt
        return training_batch(config, step)

    with monkeypatch.context() as patch:
        patch.setattr(vae_module, "training_batch", stop_at_three)
        with pytest.raises(KeyboardInterrupt):
            train(TINY, tmp_path / "cut.safetensors", save_every=2)
    assert not (tmp_path / "cut.safetensors").exists()
    resumed = train(TINY, tmp_path / "cut.safetensors")
    for name, tensor in whole.export().items():
        assert torch.equal(resumed.export()[name], tensor), name
    other = VAETraining(widths=(4, 6, 8, 10), blocks=1, steps=6, batch=4)
    with pytest.raises(ValueError, match="start afresh"):
        train(other, tmp_path / "cut.safetensors")


def test_training_batches_depend_on_seed_and_step_only():
    config = VAETraining(batch=20)
    batch = training_batch(config, 3)
    assert batch.shape == (20, 3, 64, 64) and batch.min() >= -1 and batch.max() <= 1
    assert torch.equal(batch, training_batch(config, 3))
    assert not torch.equal(batch, training_batch(config, 4))


def test_the_second_stage_starts_the_rate_over():
    config = VAETraining(steps=100, restart=60, warm_up=10, learning_rate=1.0)
    assert config.rate(0) == pytest.approx(0.1) and config.rate(30) == pytest.approx(0.5)
    assert config.rate(59) < 0.01 < 0.09 < config.rate(60)
    assert config.rate(99) < 0.01
    assert (config.noise(59), config.noise(60)) == config.latent_noise
    assert not torch.equal(training_batch(config, 70), training_batch(VAETraining(), 70))


def test_pictures_and_scores_are_sane():
    pictures = smooth_pictures(8, torch.Generator().manual_seed(0))
    assert pictures.abs().max() <= 1 and 0.2 < pictures.std() < 0.8
    assert psnr(pictures, pictures + 0.02) == pytest.approx(40, abs=0.5)
    assert set(score(TinyVAE(4, blocks=1), clips=1)) == {"psnr", "psnr_pictures", "latent_std"}
