"""Gradients to the other workers: sums, factors, and those that leave early."""
