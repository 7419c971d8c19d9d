"""Machines of other releases, for the length of some checks: Debian's kernel and user space in memory, under qemu."""
