"""One contract for every backend: the kernel's, by each way to reach them, and the fake."""
