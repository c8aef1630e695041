"""Loopback and link-local network addresses, such as that of a cloud's metadata service."""

import ipaddress
import socket


def is_loopback(address: str) -> bool:
    """Tell whether an IP address is this machine itself.

    Args:
        address: An IP address.
    """
    found = _parsed(address)
    return found.is_loopback or found.is_unspecified


def is_link_local(address: str) -> bool:
    """Tell whether an IP address is link-local or a multicast address.

    Args:
        address: An IP address.
    """
    found = _parsed(address)
    return found.is_link_local or found.is_multicast


def addresses_of(host: str) -> list[str]:
    """Return the IP addresses of a host.

    Args:
        host: Its name or address.

    Raises:
        OSError: If the name is unknown.
    """
    return list(dict.fromkeys(str(entry[4][0]) for entry in socket.getaddrinfo(host, None)))


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    found = ipaddress.ip_address(address)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped if mapped is not None else found
