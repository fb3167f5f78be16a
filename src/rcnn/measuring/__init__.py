"""Objects measured: shape, intensity, neighbours and regions, in units of the specimen."""
