"""Many devices, one head: exact sums that travel as files."""
