"""Adapters between ComfyUI's objects and the pure torch library: MODEL, CLIP, VAE, latents."""
