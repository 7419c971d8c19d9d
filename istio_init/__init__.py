"""Program, inspect and prove the traffic redirection of a service-mesh sidecar."""

__version__ = "0.1.0"
