"""Tasks on frozen features: nearest neighbours, linear probe, few labels; `embed`."""
