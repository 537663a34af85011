"""The slow path: an adapter is trained on the kept pictures, judged, and taken or not."""
