"""The learning rate as a function of the step (the published scripts: cosine, no warm-up)."""

import math


def learning_rate(step: int, total_steps: int, peak: float, minimum: float, warmup_steps: int, style: str) -> float:
    """Return the learning rate of the 0-based optimiser step `step`.

    Every style rises linearly to `peak` over `warmup_steps`, then decays over the remaining steps:
    `noam` is polynomial with power 0.5, `constant` stays.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    remaining = {
        "constant": 1.0,
        "linear": 1.0 - done,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * done)),
        "noam": math.sqrt(max(0.0, 1.0 - done)),
    }[style]
    return minimum + (peak - minimum) * remaining
