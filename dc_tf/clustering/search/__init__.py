"""The nearest centroid of rows, and sums of rows by cluster."""
