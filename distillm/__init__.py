"""Knowledge distillation: divergences, objective, on-policy sampling, and the runtime they share."""
