"""Batches of training: which rows, augmented how."""
