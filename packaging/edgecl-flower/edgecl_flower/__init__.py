"""Carries the files of an edgecl fleet between devices and the merger, on Flower."""
