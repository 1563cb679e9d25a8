"""The controller's side of the C data plane: images, messages, counters; and the process that runs it."""
