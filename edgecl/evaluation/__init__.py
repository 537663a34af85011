"""Streams and scores: test-then-train, and accuracy on data that is not learned."""
