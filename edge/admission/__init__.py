"""The validating admission webhook: the API server asks it before it stores an object that we read."""
