"""The configuration of an Envoy that does what Istio's listeners 15001 and 15006 do for destinations they do not know.

Of each connection it asks the kernel where it was meant to go, and passes its requests on to there. With TPROXY the
inbound listener is transparent, and original_src lets the application see the client's address.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from istio_init.netfilter.family import Family
from istio_init.testing.pods import Pod

OUTBOUND, INBOUND, ADMIN = 15001, 15006, 15000
MARK = 1337
"""What original_src marks its connections with; the rules know it by istio-iptables' -t."""

SELF = "/self"
"""Requests of the application below this path are sent to its own pod, as for a service that the pod is behind."""

ANY = {Family.IPV4: "0.0.0.0", Family.IPV6: "::"}
PASSTHROUGH = {Family.IPV4: "127.0.0.6", Family.IPV6: "::6"}
LOG_FIELDS = {
    "path": "%REQ(:PATH)%",
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "upstream": "%UPSTREAM_HOST%",
}

Json = dict[str, Any]


def bootstrap(pod: Pod, log: Path, *, transparent: bool) -> Json:
    """The whole configuration, with an access log in JSON lines."""
    listeners, clusters = [], [_cluster("outbound"), {"name": "nowhere", "type": "STATIC"}]
    for family in Family:
        to_self = f"self_{family.value}"
        inbound = f"inbound_{family.value}"
        clusters.append(_static(to_self, pod.hosts[family].pod, 8080))
        clusters.append(_inbound_cluster(inbound, PASSTHROUGH[family], transparent=transparent))
        routes = [_route(SELF, to_self), _route("/", "outbound")]
        listeners.append(_listener("outbound", family, OUTBOUND, [_http("outbound", routes, log)]))
        chains = [_blackhole(), {"filters": [_http("inbound", [_route("/", inbound)], log)]}]
        listener = _listener("inbound", family, INBOUND, []) | {"filter_chains": chains}
        if transparent:
            listener["transparent"] = True
            listener["listener_filters"].append(_filter("listener", "original_src", "OriginalSrc", mark=MARK))
        listeners.append(listener)
    return {
        "admin": {"address": _address("127.0.0.1", ADMIN)},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    }


def _listener(direction: str, family: Family, port: int, filters: list[Json]) -> Json:
    return {
        "name": f"{direction}_{family.value}",
        "address": _address(ANY[family], port),
        "traffic_direction": direction.upper(),
        "listener_filters": [_filter("listener", "original_dst", "OriginalDst")],
        "filter_chains": [{"filters": filters}],
        "tcp_backlog_size": 1024,
    }


def _blackhole() -> Json:
    """Who calls the inbound listener by its own port would be passed on to it for ever: Istio refuses that, too."""
    proxy = _filter("network", "tcp_proxy", "TcpProxy", stat_prefix="blackhole", cluster="nowhere")
    return {"filter_chain_match": {"destination_port": INBOUND}, "filters": [proxy]}


def _http(direction: str, routes: list[Json], log: Path) -> Json:
    access = {
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": str(log),
            "log_format": {"json_format": {"direction": direction, **LOG_FIELDS}},
        },
    }
    return _filter(
        "network",
        "http_connection_manager",
        "HttpConnectionManager",
        stat_prefix=direction,
        access_log=[access],
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        http_filters=[_filter("http", "router", "Router")],
    )


def _route(prefix: str, cluster: str) -> Json:
    return {"match": {"prefix": prefix}, "route": {"cluster": cluster}}


def _cluster(name: str) -> Json:
    """A cluster of whatever destinations connections had; a new connection for each request, so that it meets rules."""
    kind = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    options = {
        "@type": kind,
        "common_http_protocol_options": {"max_requests_per_connection": 1},
        "explicit_http_config": {"http_protocol_options": {}},
    }
    return {
        "name": name,
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
    }


def _inbound_cluster(name: str, source: str, *, transparent: bool) -> Json:
    """To the application, from the address by which the rules know that Envoy passes a connection on."""
    bind = {} if transparent else {"upstream_bind_config": {"source_address": _socket_address(source, 0)}}
    return {**_cluster(name), **bind}


def _static(name: str, host: str, port: int) -> Json:
    endpoint = {"endpoint": {"address": _address(host, port)}}
    assignment = {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}
    return {**_cluster(name), "type": "STATIC", "lb_policy": "ROUND_ROBIN", "load_assignment": assignment}


def _address(host: str, port: int) -> Json:
    return {"socket_address": _socket_address(host, port)}


def _socket_address(host: str, port: int) -> Json:
    return {"address": host, "port_value": port}


def _filter(kind: str, name: str, message: str, **fields: object) -> Json:
    package = f"envoy.extensions.filters.{kind}.{name}.v3"
    return {
        "name": f"envoy.filters.{kind}.{name}",
        "typed_config": {"@type": f"type.googleapis.com/{package}.{message}", **fields},
    }
