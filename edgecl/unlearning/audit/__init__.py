"""How well a class is forgotten: the attack, what is measured, what `--verify` looks at."""
