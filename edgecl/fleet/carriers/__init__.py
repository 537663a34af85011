"""What carries files between devices and the merger."""
