"""Unlearning by training: what nothing here shows to be removed (decision 0011)."""
