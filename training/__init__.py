"""Training side of the pack: data, tasks, loop, evaluation. Never imported by the nodes."""
