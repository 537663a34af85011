"""Many devices, one head: what a device learned as a file, and files added up exactly."""
