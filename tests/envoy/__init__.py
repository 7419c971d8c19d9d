"""Redirection to a real Envoy, between real applications."""
