"""The network in files of other programs, and their weights as a network."""
