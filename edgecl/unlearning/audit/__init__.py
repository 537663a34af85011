"""How well a class is forgotten: what `--verify` measures beside the exact path.

`verify.py` compares what is served with a model that never learned the class, by the measures of
`measures.py`, and attacks it as `attack.py` does. It changes nothing.
"""
