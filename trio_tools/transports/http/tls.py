"""The certificate of an HTTPS server and its private key. The password is never shown."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

from trio_tools.settings import HttpSettings

_KEY_OF_ANOTHER_CERTIFICATE: Final = "KEY_VALUES_MISMATCH"


def tls_context(settings: HttpSettings) -> ssl.SSLContext | None:
    """Return the TLS context for HTTPS; None for plain HTTP.

    Never prompts for a password on a terminal, as OpenSSL would.

    Raises:
        ValueError: A setting is missing beside another one, the password is missing or wrong, or
            a file contains no certificate or key, or one that does not belong to the other.
        OSError: A file cannot be read.
    """
    if settings.tls_cert_file is None:
        for name in ("tls_key_file", "tls_key_password", "tls_key_password_file"):
            if getattr(settings, name) is not None:
                raise ValueError(f"http.{name} is set without http.tls_cert_file: set both")
        return None
    key = settings.tls_key_file or settings.tls_cert_file
    password = _KeyPassword(settings, key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file, password)
    except ssl.SSLError as error:
        raise ValueError(_told(settings.tls_cert_file, key, password, error)) from None
    context.set_alpn_protocols(["http/1.1"])
    return context


class _KeyPassword:
    """Called by OpenSSL if the key is encrypted.

    Attributes:
        asked_for: Whether it was called.
    """

    def __init__(self, settings: HttpSettings, key: Path) -> None:
        self._key = key
        self._password = _password(settings)
        self.asked_for = False

    def __call__(self) -> str:
        self.asked_for = True
        if self._password is None:
            raise ValueError(
                f"the key in {self._key} is encrypted: set http.tls_key_password_file, or "
                "http.tls_key_password from the environment "
                "(TRIO_TOOLS_HTTP__TLS_KEY_PASSWORD)"
            )
        return self._password


def _password(settings: HttpSettings) -> str | None:
    given, file = settings.tls_key_password, settings.tls_key_password_file
    if given is not None and file is not None:
        raise ValueError("set http.tls_key_password or http.tls_key_password_file, not both")
    if file is not None:
        # One line; its line end is not part of the password.
        return file.read_text(encoding="utf-8").rstrip("\r\n")
    return given.get_secret_value() if given is not None else None


def _told(cert: Path, key: Path, password: _KeyPassword, error: ssl.SSLError) -> str:
    if error.reason == _KEY_OF_ANOTHER_CERTIFICATE:
        return f"the key in {key} does not belong to the certificate in {cert}"
    if password.asked_for:
        return f"the key in {key} does not open with the password of the settings: correct it"
    return f"{cert} and {key} must hold a certificate chain and its private key, as PEM: {error}"
