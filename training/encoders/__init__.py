"""Frozen encoders, opened from the same single files that ComfyUI's users have."""
