"""The commands. Only this package prints, exits, and turns errors into exit codes."""

DROPIN = "istio-iptables"
"""The command that starts on a path of its own."""
