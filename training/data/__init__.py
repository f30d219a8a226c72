"""From raw files to batches: formats, decoding, clips, index, plan and loader."""
