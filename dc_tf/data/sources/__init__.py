"""Where images come from: folders, lists, archives, Parquet files, TFDS."""
