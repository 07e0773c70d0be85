"""A real time-stamp authority on this machine: openssl's, with its own CA, behind a small HTTP server."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

CONFIG = """\
[tsa]
default_tsa = made
[made]
dir = {folder}
serial = {folder}/serial
{chain}signer_cert = {folder}/tsa.pem
signer_key = {folder}/tsa.key
signer_digest = sha256
default_policy = 1.2.3.4.1
other_policies = 1.2.3.4.5
digests = sha256, sha512
accuracy = secs:1
tsa_name = yes
ess_cert_id_chain = no
"""


def openssl(*arguments: str, folder: Path, given: bytes = b"") -> bytes:
    """What openssl prints."""
    done = subprocess.run(["openssl", *arguments], cwd=folder, input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


class Authority:
    """A CA and a time-stamp certificate of it. ``usage`` and ``days`` make bad ones; ``chain`` goes into each token."""

    def __init__(
        self, folder: Path, name: str = "Test CA", usage: str = "timeStamping", days: int = 30, chain: str = ""
    ) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "60", "-subj", f"/CN={name}",
                "-addext", "keyUsage=critical,keyCertSign,cRLSign", folder=folder)  # fmt: skip
        openssl("req", *key, "-keyout", "tsa.key", "-out", "tsa.csr", "-subj", f"/CN={name} time", folder=folder)
        (folder / "usage").write_text(f"extendedKeyUsage=critical,{usage}\nkeyUsage=critical,digitalSignature\n")
        openssl("x509", "-req", "-in", "tsa.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out",
                "tsa.pem", "-days", str(days), "-extfile", "usage", folder=folder)  # fmt: skip
        (folder / "serial").write_text("01\n")
        (folder / "openssl.cnf").write_text(
            CONFIG.format(folder=folder, chain=f"certs = {folder / chain}\n" if chain else "")
        )

    def impostor(self, data: bytes, usage: str) -> bytes:
        """A response over the data signed by a certificate of this very CA that has another purpose, made with
        ``openssl cms``, because ``openssl ts`` refuses to.
        """
        folder = self.folder
        (folder / "other").write_text(f"extendedKeyUsage=critical,{usage}\n")
        openssl("x509", "-req", "-in", "tsa.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-out", "other.pem", "-extfile",
                "other", folder=folder)  # fmt: skip
        (folder / "true.tsr").write_bytes(self.stamp(data))
        openssl(
            "ts", "-reply", "-config", "openssl.cnf", "-in", "true.tsr", "-token_out", "-out", "token", folder=folder
        )
        openssl(
            "cms", "-verify", "-noverify", "-inform", "DER", "-in", "token", "-out", "info", "-binary", folder=folder
        )
        openssl("cms", "-sign", "-econtent_type", "1.2.840.113549.1.9.16.1.4", "-in", "info", "-binary", "-nodetach",
                "-nosmimecap", "-md", "sha256", "-signer", "other.pem", "-inkey", "tsa.key", "-outform", "DER", "-out",
                "forged", folder=folder)  # fmt: skip
        body = b"\x30\x03\x02\x01\x00" + (folder / "forged").read_bytes()  # PKIStatusInfo: granted
        return b"\x30\x82" + len(body).to_bytes(2, "big") + body

    @property
    def ca(self) -> Path:
        """Its CA certificate."""
        return self.folder / "ca.pem"

    def answer(self, query: bytes, *more: str) -> bytes:
        """The response to a query, as ``openssl ts`` makes it."""
        (self.folder / "query.tsq").write_bytes(query)
        openssl("ts", "-reply", "-config", "openssl.cnf", "-queryfile", "query.tsq", "-out", "reply.tsr", *more,
                folder=self.folder)  # fmt: skip
        return (self.folder / "reply.tsr").read_bytes()

    def stamp(self, data: bytes, *more: str, digest: str = "-sha256") -> bytes:
        """A response over some data, asked for by ``openssl ts -query``."""
        (self.folder / "data").write_bytes(data)
        openssl("ts", "-query", "-data", "data", digest, "-cert", "-out", "q.tsq", *more, folder=self.folder)
        return self.answer((self.folder / "q.tsq").read_bytes())

    @contextmanager
    def served(self, change=lambda reply: reply, kind: str = "application/timestamp-reply") -> Iterator[str]:
        """The URL of a server that answers as this authority does; ``change`` may spoil the answer."""
        authority = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.headers["Content-Type"] == "application/timestamp-query"
                reply = change(authority.answer(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, *_: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/tsr"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
