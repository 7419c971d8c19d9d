"""Names of services, users and groups for tests: a real implementation, with a directory of its own."""

from __future__ import annotations

from istio_init.config.parse import Names

SERVICES = {"http": 80, "domain": 53, "http-alt": 8080}
USERS = {"istio-proxy": 1340, "envoy": 1234, "root": 0}
GROUPS = {"staff": 50, "istio-proxy": 1341, "wheel": 0}


class Directory(Names):
    """Knows a few names."""

    def service(self, name: str) -> int | None:
        return SERVICES.get(name)

    def user(self, name: str) -> int | None:
        return USERS.get(name)

    def group(self, name: str) -> int | None:
        return GROUPS.get(name)
