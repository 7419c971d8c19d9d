"""Rules as iptables writes them: values, and their text to and fro. Pure."""
