"""Agreement of clusterings with labels and metadata."""
