"""The sync daemon: moves what arrives in write directories into a store."""
