"""Istio's sidecar policy: from a configuration to the rules and the routing that it means."""
