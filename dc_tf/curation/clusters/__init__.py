"""A clustering with its data set: its table, outliers, and the clusters of new images."""
