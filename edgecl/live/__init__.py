"""What a stream needs while it runs live: labels on the fly, recent frames, ages, votes."""
