"""What tests share: namespaces, traffic, and views of what the kernel holds."""
