"""Optimizers and their rates, and the scale of the loss in float16."""
