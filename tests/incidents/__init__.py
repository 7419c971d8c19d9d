"""Incidents: a pod that something is wrong with, what must be said of it, and what must not."""
