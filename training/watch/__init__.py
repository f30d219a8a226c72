"""What a person sees of a run while it trains: metrics, samples, held-out losses, a report."""
