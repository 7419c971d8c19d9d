"""How a pod's traffic is captured, whatever store holds the rules."""

from __future__ import annotations

from enum import Enum

from istio_init.config.ambient import AmbientConfig
from istio_init.config.model import InterceptionMode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from istio_init.config.model import Config


class Mode(Enum):
    """A sidecar's two ways of inbound capture, an ambient mesh, or none; the value is how reports and JSON name it."""

    REDIRECT = "REDIRECT"
    TPROXY = "TPROXY"
    AMBIENT = "ambient"
    NONE = "none"

    @property
    def is_sidecar(self) -> bool:
        """Whether a proxy in the pod captures."""
        return self in (Mode.REDIRECT, Mode.TPROXY)


def mode_of(config: Config | AmbientConfig | None) -> Mode:
    """The mode of the configuration that was found; none where there is none."""
    if config is None:
        return Mode.NONE
    if isinstance(config, AmbientConfig):
        return Mode.AMBIENT
    return Mode.TPROXY if config.mode is InterceptionMode.TPROXY else Mode.REDIRECT
