"""Workers: who they are, what they exchange, and how the death of one is noticed."""
