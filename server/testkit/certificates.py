"""Certificates of a test's own."""

from __future__ import annotations

import os
from pathlib import Path

from testkit import tools
from testkit.process import run


def authority(folder: Path) -> None:
    """A certificate authority of a test's own and a certificate for `localhost`: ca.pem, server.pem, server.key."""
    openssl = tools.program("openssl")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    made = [openssl, "req", "-x509", *key, "-days", "30", "-subj", "/CN=Marquee tests", "-keyout", f"{folder}/ca.key"]
    run([*made, "-out", f"{folder}/ca.pem"])
    run(
        [
            openssl,
            "req",
            *key,
            "-subj",
            "/CN=localhost",
            "-keyout",
            f"{folder}/server.key",
            "-out",
            f"{folder}/server.csr",
        ]
    )
    extensions = folder / "server.ext"
    extensions.write_text("basicConstraints=CA:FALSE\nsubjectAltName=DNS:localhost\n", encoding="utf-8")
    signed = [openssl, "x509", "-req", "-in", f"{folder}/server.csr", "-CA", f"{folder}/ca.pem", "-days", "30"]
    signed += ["-CAkey", f"{folder}/ca.key", "-set_serial", str(int.from_bytes(os.urandom(8), "big"))]
    run([*signed, "-extfile", str(extensions), "-out", f"{folder}/server.pem"])
