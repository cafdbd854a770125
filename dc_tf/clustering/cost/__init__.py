"""A model of the time and memory of k-means."""
