"""The parts of the networks, one file per part: module, targets, loss and decoding together."""
