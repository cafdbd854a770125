"""Checks of machine, workers, data and disks before a run."""
