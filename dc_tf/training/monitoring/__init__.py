"""What a run writes to be looked at: metrics, speed, TensorBoard."""
