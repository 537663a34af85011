"""One process that sees, is taught, and is asked: `edgecl serve`."""
