"""The manifests under docs/examples."""
