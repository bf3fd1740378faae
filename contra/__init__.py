"""CONTRA: continuous trajectory alignment, an add-on to every method in `distillm`."""
