"""From recordings to training batches: builders, shards, statistics, windows, latents, packing and the loader."""
