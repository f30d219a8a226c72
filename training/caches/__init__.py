"""What frozen encoders give for a data set, computed once and kept in safetensors shards."""
