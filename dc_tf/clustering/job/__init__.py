"""`dc_tf kmeans`: from flags to files, and what a restart resumes from."""
