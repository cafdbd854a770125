"""The page of `dc_tf duplicates`, and the work behind it."""
