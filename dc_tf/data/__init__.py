"""Images as data sets of records, from any source to batches."""
