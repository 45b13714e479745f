"""From recordings to training batches: builders, data folders, windows, latents, tasks, packing and the loader."""
