"""Adapters: small trained parts beside the frozen blocks of a backbone.

An adapter is arrays, `{input name of the engine: float32 array}`; zeros are the plain backbone.
"""
