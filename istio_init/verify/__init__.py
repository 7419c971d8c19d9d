"""What to probe in a namespace, and what a probe's fate says of its rules. Pure: `istio_init.kernel` sends."""
