"""One thin file a command; `main` finds, parses and runs them."""
