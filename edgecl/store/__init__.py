"""Stored samples: the SQLite store and the rules of what it keeps."""
