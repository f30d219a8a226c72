"""From raw video to captioned, scored, filtered clips: `python -m training data`."""
