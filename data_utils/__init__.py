"""The lowest layer: the binary token store, prompts, datasets and batches. Imports nothing else from this project."""
