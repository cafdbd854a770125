"""Features of the whole collection: extracted, or kept from steps; what they need first."""
