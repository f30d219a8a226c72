"""Other models' weights as STIV checkpoints, and one STIV checkpoint as the next."""
