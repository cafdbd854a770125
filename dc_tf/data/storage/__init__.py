"""Data sets on disk: shards of records, their index, and reading by row id."""
