"""What features are worth: tasks, the paper's protocols, and its results."""
