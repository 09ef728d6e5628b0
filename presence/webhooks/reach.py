"""Which addresses on the network a webhook may reach.

Before changing it: this is what keeps a configured name from reaching the inside of the network, cloud metadata
services included. What is not certainly public is refused.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

# IANA's special-purpose registries; the library's own lists differ from version to version.
_BARRED_4 = [
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",  # not in the registries: Azure's own services, from every machine there
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
]
_GLOBAL_6 = IPv6Network("2000::/3")  # all that is handed out to hosts
# IETF protocols (Teredo among them), documentation and 6to4, which leads to any IPv4 address.
_BARRED_6 = [IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")]
_NAT64 = IPv6Network("64:ff9b::/96")  # how networks without IPv4 reach one: judged by the IPv4 address inside


def is_public(text: str) -> bool:
    """Whether the address certainly belongs to the public internet."""
    try:
        address = ip_address(text)
    except ValueError:
        return False
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return _is_public_4(address.ipv4_mapped)
        if address in _NAT64:
            return _is_public_4(IPv4Address(int(address) & 0xFFFF_FFFF))
        return address in _GLOBAL_6 and address.is_global and not any(address in net for net in _BARRED_6)
    return _is_public_4(address)


def literal(host: str) -> bool:
    """Whether the host is an address and no name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _is_public_4(address: IPv4Address) -> bool:
    return address.is_global and not any(address in net for net in _BARRED_4)
