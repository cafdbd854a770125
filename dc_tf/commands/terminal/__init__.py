"""What reaches the terminal: log lines, results, and TensorFlow's own lines kept off it."""
