"""Everything that touches the kernel besides the rules: processes, namespaces, routing, names, resolv.conf."""
