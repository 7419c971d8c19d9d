"""Rules as Istio's own native mode writes them, and those of neighbours, in nft's text."""

from __future__ import annotations

SIDECAR = """
table inet istio-proxy-nat {
  chain prerouting { type nat hook prerouting priority -100; meta l4proto tcp counter jump istio-inbound; }
  chain output { type nat hook output priority -100; counter jump istio-output; }
  chain istio-redirect { meta l4proto tcp counter redirect to :15001; }
  chain istio-in-redirect { meta l4proto tcp counter redirect to :15006; }
  chain istio-inbound {
    tcp dport 15008 counter return
    tcp dport 15090 counter return
    tcp dport 15021 counter return
    tcp dport 15020 counter return
    meta l4proto tcp counter jump istio-in-redirect
  }
  chain istio-output {
    oifname "lo" ip saddr 127.0.0.6 counter return
    oifname "lo" ip6 saddr ::6 counter return
    oifname "lo" ip daddr != 127.0.0.1 tcp dport != 15008 meta skuid 1337 counter jump istio-in-redirect
    oifname "lo" ip6 daddr != ::1 tcp dport != 15008 meta skuid 1337 counter jump istio-in-redirect
    oifname "lo" meta skuid != 1337 counter return
    meta skuid 1337 counter return
    oifname "lo" ip daddr != 127.0.0.1 tcp dport != 15008 meta skgid 1337 counter jump istio-in-redirect
    oifname "lo" ip6 daddr != ::1 tcp dport != 15008 meta skgid 1337 counter jump istio-in-redirect
    oifname "lo" meta skgid != 1337 counter return
    meta skgid 1337 counter return
    ip daddr 127.0.0.1 counter return
    ip6 daddr ::1 counter return
    counter jump istio-redirect
  }
}
"""
"""A dual-stack sidecar with the arguments of the injection template."""

TPROXY_WITH_DNS = """
table inet istio-proxy-nat {
  chain output { type nat hook output priority -100; counter jump istio-output; }
  chain istio-inbound { tcp dport 15008 counter return; }
  chain istio-redirect { meta l4proto tcp counter redirect to :15001; }
  chain istio-in-redirect { meta l4proto tcp counter redirect to :15006; }
  chain istio-output {
    oifname "lo" ip saddr 127.0.0.6 counter return
    oifname "lo" ip daddr != 127.0.0.1 tcp dport != { 53, 15008 } meta skuid 1337 counter jump istio-in-redirect
    oifname "lo" tcp dport != 53 meta skuid != 1337 counter return
    meta skuid 1337 counter return
    oifname "lo" ip daddr != 127.0.0.1 tcp dport != 15008 meta skgid 1337 counter jump istio-in-redirect
    oifname "lo" tcp dport != 53 meta skgid != 1337 counter return
    meta skgid 1337 counter return
    counter jump istio-output-dns
    ip daddr 127.0.0.1 counter return
    counter jump istio-redirect
  }
  chain istio-output-dns {
    ip daddr 10.77.0.1 tcp dport 53 counter redirect to :15053
    ip daddr 10.77.0.1 udp dport 53 counter redirect to :15053
  }
}
table inet istio-proxy-mangle {
  chain prerouting {
    type filter hook prerouting priority -150
    meta l4proto tcp counter jump istio-inbound
    meta l4proto tcp meta mark 0x539 counter ct mark set meta mark
  }
  chain output {
    type route hook output priority -150
    oifname "lo" meta l4proto tcp meta mark 0x539 counter return
    oifname "lo" meta l4proto tcp ip daddr != 127.0.0.1 meta skuid 1337 counter meta mark set 0x53a
    oifname "lo" meta l4proto tcp ip daddr != 127.0.0.1 meta skgid 1337 counter meta mark set 0x53a
    meta l4proto tcp ct mark 0x539 counter meta mark set ct mark
  }
  chain istio-divert { counter meta mark set 0x539; counter accept; }
  chain istio-tproxy {
    meta l4proto tcp ip daddr != 127.0.0.1 tproxy ip to :15006 meta mark set 0x539 counter accept
  }
  chain istio-inbound {
    meta l4proto tcp meta mark 0x539 counter return
    iifname "lo" meta l4proto tcp ip saddr 127.0.0.6 counter return
    iifname "lo" meta l4proto tcp meta mark != 0x53a counter return
    tcp dport 15090 counter return
    tcp dport 15021 counter return
    tcp dport 15020 counter return
    meta l4proto tcp ct state established,related counter jump istio-divert
    meta l4proto tcp counter jump istio-tproxy
  }
}
table inet istio-proxy-raw {
  chain prerouting { type filter hook prerouting priority -300; counter jump istio-inbound; }
  chain output { type filter hook output priority -300; counter jump istio-output-dns; }
  chain istio-inbound { udp sport 53 ip saddr 10.77.0.1 counter ct zone set 1; }
  chain istio-output-dns {
    udp dport 53 meta skuid 1337 counter ct zone set 1
    udp sport 15053 meta skuid 1337 counter ct zone set 2
    udp dport 53 meta skgid 1337 counter ct zone set 1
    udp sport 15053 meta skgid 1337 counter ct zone set 2
    udp dport 53 ip daddr 10.77.0.1 counter ct zone set 2
  }
}
"""
"""An IPv4 sidecar in TPROXY mode, with capture of DNS queries to 10.77.0.1."""

AMBIENT = """
table inet istio-ambient-nat {
  chain prerouting { type nat hook prerouting priority -100; jump istio-prerouting; }
  chain output { type nat hook output priority -100; jump istio-output; }
  chain istio-prerouting {
    meta l4proto tcp ip saddr 169.254.7.127 counter accept
    ip daddr != 127.0.0.1 tcp dport != 15008 meta mark & 0xfff != 0x539 counter redirect to :15006
  }
  chain istio-output {
    meta l4proto tcp ip daddr 169.254.7.127 counter accept
    oifname != "lo" meta mark & 0xfff != 0x539 udp dport 53 counter redirect to :15053
    ip daddr != 127.0.0.1 tcp dport 53 meta mark & 0xfff != 0x539 counter redirect to :15053
    meta l4proto tcp meta mark & 0xfff == 0x111 counter accept
    oifname "lo" ip daddr != 127.0.0.1 counter accept
    meta l4proto tcp ip daddr != 127.0.0.1 meta mark & 0xfff != 0x539 counter redirect to :15001
  }
}
table inet istio-ambient-mangle {
  chain prerouting { type filter hook prerouting priority -150; jump istio-prerouting; }
  chain output { type route hook output priority -150; jump istio-output; }
  chain istio-prerouting { meta mark & 0xfff == 0x539 counter ct mark set ct mark & 0xfffff000 | 0x111; }
  chain istio-output { ct mark & 0xfff == 0x111 counter meta mark set ct mark; }
}
table inet istio-ambient-raw {
  chain prerouting { type filter hook prerouting priority -300; jump istio-prerouting; }
  chain output { type filter hook output priority -300; jump istio-output; }
  chain istio-prerouting { meta mark & 0xfff != 0x539 udp sport 53 counter ct zone set 1; }
  chain istio-output { meta mark & 0xfff == 0x539 udp dport 53 counter ct zone set 1; }
}
"""
"""A pod of an ambient mesh, IPv4 alone."""

KUBEVIRT = """
table ip nat {
  chain prerouting { type nat hook prerouting priority -100; iifname "vm0" counter jump KUBEVIRT_PREINBOUND; }
  chain input { type nat hook input priority 100; }
  chain output { type nat hook output priority -100; ip daddr 127.0.0.1 counter dnat to 10.0.2.2; }
  chain postrouting {
    type nat hook postrouting priority 100
    ip saddr 10.0.2.2 counter masquerade
    oifname "k6t-eth0" counter jump KUBEVIRT_POSTINBOUND
  }
  chain KUBEVIRT_PREINBOUND { counter dnat to 10.0.2.2; }
  chain KUBEVIRT_POSTINBOUND { ip saddr 127.0.0.1 counter snat to 10.0.2.1; }
}
"""
"""As a virtual machine's launcher writes them beside the machine, whose interface is not there here."""
