"""Features on disk: read in blocks, whitened, rewritten in place."""
