"""dasfs: datasets of millions of small files, kept as a few large TAR objects, shown as plain directories."""

__version__ = "0.1.0"
