"""The mount: tree, prefetch, operations."""
