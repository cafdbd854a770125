"""Rows of a data set chosen by rules, as a view."""
