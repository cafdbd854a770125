"""Trees of clusters, and rows drawn evenly from them."""
