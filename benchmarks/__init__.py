"""Speed and memory measured here and now, as ratios to limits of the machine; never timed tests."""
