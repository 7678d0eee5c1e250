"""The socket that is listened on: taken before anything else, and left so that nobody waits at a closed door."""

from __future__ import annotations

import ctypes
import ipaddress
import logging
import socket
import struct
import sys

from henaw.errors import BadInput, EnvironmentProblem

logger = logging.getLogger(__name__)

_ATTACH_FILTER = 26  # SO_ATTACH_FILTER of Linux; the module socket has no name for it
_DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)  # one instruction of classic BPF: return 0


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to ``host`` and ``port`` (0: any that is free).

    Raises:
        BadInput: there is no such port.
        EnvironmentProblem: it is taken, or the address is not of this machine.
    """
    if not 0 <= port < 1 << 16:
        raise BadInput(f"port {port}: expected 0 to 65535")
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        reason = error.strerror or type(error).__name__
        raise EnvironmentProblem(f"{host}:{port}: cannot be listened on: {reason}") from None
    bound.set_inheritable(True)
    return bound


def let_nobody_in(bound: socket.socket) -> None:
    """Let no connection begin any more, on Linux; those that wait to be accepted still are.

    Without this the kernel accepts for us until the socket is closed, and then resets whoever it had let in. So it
    drops the first packet; the client's second, a second later, finds nobody listening.
    """
    if sys.platform != "linux":
        return
    program = ctypes.create_string_buffer(_DROP_ALL)
    try:
        bound.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(program)))
    except OSError as error:
        logger.debug("no filter on the listening socket: %s", error.strerror)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"  # any other name may be of whatever address


def shown(host: str) -> str:
    """``host`` as an URL has it."""
    return f"[{host}]" if ":" in host else host
