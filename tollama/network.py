"""Who can reach an address, and the rule about it: beyond this machine only with API keys, or told to be open."""

from __future__ import annotations

from ipaddress import ip_address

from tollama.errors import ConfigError
from tollama.settings import Settings


def on_loopback(host: str | None) -> bool:
    """Whether only this machine reaches ``host``, or is meant by it. Any other name may be anywhere."""
    if host == "localhost":
        return True
    try:
        return ip_address((host or "").strip("[]")).is_loopback
    except ValueError:
        return False


def address(host: str, port: int) -> str:
    """``host:port`` as in a URL, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def require_guarded(host: str | None, what: str, settings: Settings) -> None:
    """Raises :class:`ConfigError` where others could reach ``what`` at ``host`` without an API key."""
    if on_loopback(host) or settings.api_keys or settings.insecure:
        return
    raise ConfigError(
        f"{what} would listen on {host or 'every address'}, where other machines reach it, and there is no API key.",
        hint="Make one with: tollama config key add. To go without: tollama serve --insecure, or TOLLAMA_INSECURE=1.",
    )
