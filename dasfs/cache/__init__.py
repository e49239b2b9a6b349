"""What a mount keeps locally: the index cache and the block cache."""
