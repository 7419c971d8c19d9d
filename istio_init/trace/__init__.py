"""What happens to a connection's first packet, rule by rule, as the kernel would decide it. Pure: nothing is sent."""
