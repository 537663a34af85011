"""Unlearning: a class leaves the head, the store and the disk, and a receipt says how."""
