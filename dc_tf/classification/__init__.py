"""A classifier made by fine-tuning, and its predictions."""
