"""Datasets in a store: commit log, writer, verify, import, collect."""
