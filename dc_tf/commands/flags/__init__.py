"""Flags of commands, each defined in one way."""
