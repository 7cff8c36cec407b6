"""The files of a topology file's ``tls``, read and checked against each other."""

from __future__ import annotations

import ssl

from shards.settings import Tls


def context(tls: Tls) -> ssl.SSLContext:
    """Returns what connects as ``tls`` says.

    Raises ``OSError``, as which ``ssl.SSLError`` counts, when a file is not there, is no PEM, or the key is not that of
    the certificate.
    """
    made = ssl.create_default_context(cafile=tls.ca_file)
    made.check_hostname = tls.verify_host
    if tls.cert_file:
        made.load_cert_chain(tls.cert_file, tls.key_file)
    return made
