"""Copies in a collection: pairs, groups, and the row of each to keep."""
