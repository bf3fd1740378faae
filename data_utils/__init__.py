"""Ground floor: the binary token store, prompts, datasets and batches. Imports nothing of this project."""
