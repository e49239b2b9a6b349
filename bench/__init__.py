"""The benchmark: one rig, every peer in the same run. `python -m bench.run --help`; bench/README.md explains it."""
