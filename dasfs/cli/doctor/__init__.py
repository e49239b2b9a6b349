"""What `dasfs doctor` looks at: the machine, a cache's disk, the mounts of this host, a store.

Each module gathers facts in thin functions, and judges them in pure ones: facts in, a `Finding` out.
"""
