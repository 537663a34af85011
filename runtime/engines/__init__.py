"""Engines that run the frozen backbone: one module a runtime."""
