"""Pure functions on tensors: the geometry, the assignment rules and the losses of the papers."""
