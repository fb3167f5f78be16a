"""The parts of the networks, one family a file: module, targets, loss and decoding together."""
