"""Many devices, one head, exactly: contributions are sums, and orders to forget reach all."""
