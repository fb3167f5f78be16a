"""What is timed, each against a peer, in one run: `python -m benchmarks.NAME`."""
