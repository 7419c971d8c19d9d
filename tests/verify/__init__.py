"""Proving namespaces with real connections."""
