"""What tests share that is about this program: how it is run, and views of what the kernel holds."""
