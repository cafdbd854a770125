"""K-means over the rows of all workers, in one level and in two."""
