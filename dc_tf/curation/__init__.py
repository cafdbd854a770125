"""Collections by their features: searched, without copies, with clusters, balanced."""
