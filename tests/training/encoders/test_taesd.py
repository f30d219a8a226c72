"""The small VAE's network: what it exports is the host's TAESD."""

from __future__ import annotations

import pytest
import torch

from training.encoders.taesd import TinyVAE


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("width", [8, (4, 6, 8, 10)])
def test_the_export_is_the_hosts_taesd(width, blocks):
    taesd = pytest.importorskip("comfy.taesd.taesd", reason="needs ComfyUI (run make test)")
    torch.manual_seed(blocks)
    vae = TinyVAE(width, 4, blocks).double()
    host = taesd.TAESD(latent_channels=4)
    host.load_state_dict(vae.export())
    vae, host = vae.float(), host.float()
    image = torch.rand(2, 3, 32, 48) * 2 - 1
    with torch.inference_mode():
        z = vae.encode(image)
        assert z.shape == (2, 4, 4, 6)
        assert torch.allclose(host.encode(image), z, atol=1e-6)
        assert torch.allclose(host.decode(3 * z), vae.decode(3 * z), atol=1e-6)


def test_bad_widths_are_quoted():
    with pytest.raises(ValueError, match="65"):
        TinyVAE(65)
    with pytest.raises(ValueError, match="blocks is 4"):
        TinyVAE(8, blocks=4)
