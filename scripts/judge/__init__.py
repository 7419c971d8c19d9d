"""Random rules and packets, to hold the tracer against the kernel and against itself."""
