"""An S3 server: SeaweedFS's, with a bucket and one pair of keys."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import hmac
import json
import signal
import ssl
import urllib.error
import urllib.request
from pathlib import Path

from testkit import tools
from testkit.certificates import authority
from testkit.process import HOST, Server, free_ports

KEY = "marquee-tests"
SECRET = "only-for-tests"
REGION = "us-east-1"
BUCKET = "marquee-tests"
EMPTY = hashlib.sha256(b"").hexdigest()


class S3(Server):
    """All parts of SeaweedFS in one process."""

    name = "s3"
    stop_signal = signal.SIGKILL  # it does not end by SIGTERM

    def __init__(self, folder: Path, *, outlives: bool = False) -> None:
        super().__init__(folder, outlives=outlives)
        self._ports = free_ports(7)
        self._weed = ""

    @property
    def url(self) -> str:
        return f"s3://{BUCKET}"

    @property
    def endpoint(self) -> str:
        """Where it listens."""
        return f"http://{HOST}:{self.port}"

    def environment(self) -> dict[str, str]:
        """What clients read besides the URL."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": REGION,
        }

    def prepare(self) -> None:
        self._weed = tools.weed()
        (self.folder / "data").mkdir(exist_ok=True)
        identity = {
            "name": "marquee",
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (self.folder / "s3.json").write_text(json.dumps({"identities": [identity]}), encoding="utf-8")

    def words(self) -> list[str]:
        words = [self._weed, "-logtostderr=true", "server", f"-ip={HOST}", f"-ip.bind={HOST}"]
        words += [f"-dir={self.folder}/data", "-master.telemetry=false", "-master.volumePreallocate=false"]
        words += ["-master.peers=none", "-master.volumeSizeLimitMB=64", "-volume.max=50", "-volume.preStopSeconds=0"]
        words += ["-filer", "-s3", "-s3.iam=false", f"-s3.config={self.folder}/s3.json"]
        words += [f"-s3.port={self.port}", "-s3.port.iceberg=0", "-s3.port.lance=0"]
        # Else a put into a missing bucket makes it, and that it is missing could not be tested.
        words += ["-s3.autoCreateBucket=false"]
        names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
        return words + [f"-{name}={port}" for name, port in zip((*names, "s3.port.grpc"), self._ports, strict=True)]

    def is_ready(self) -> bool:
        """The bucket is there and takes an object."""
        with contextlib.suppress(OSError, urllib.error.URLError):
            there = self.ask("HEAD", f"/{BUCKET}") == 200 or self.ask("PUT", f"/{BUCKET}") == 200
            return (
                there and self.ask("PUT", f"/{BUCKET}/.ready") == 200 and self.ask("DELETE", f"/{BUCKET}/.ready") < 300
            )
        return False

    def trust(self) -> ssl.SSLContext | None:
        """Whom its clients trust; None without TLS."""
        return None

    def ask(self, method: str, path: str) -> int:
        """The status of a signed request without a body."""
        now = datetime.datetime.now(datetime.UTC)
        stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
        host, names = self.endpoint.partition("://")[2], "host;x-amz-content-sha256;x-amz-date"
        canonical = (
            f"{method}\n{path}\n\nhost:{host}\nx-amz-content-sha256:{EMPTY}\nx-amz-date:{stamp}\n\n{names}\n{EMPTY}"
        )
        scope = f"{day}/{REGION}/s3/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = f"AWS4{SECRET}".encode()
        for part in (*scope.split("/"), text):
            key = hmac.digest(key, part.encode(), "sha256")
        signed = f"AWS4-HMAC-SHA256 Credential={KEY}/{scope}, SignedHeaders={names}, Signature={key.hex()}"
        headers = {"x-amz-content-sha256": EMPTY, "x-amz-date": stamp, "authorization": signed}
        request = urllib.request.Request(self.endpoint + path, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=5.0, context=self.trust()) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code


class S3Tls(S3):
    """The same with TLS alone. Its certificate is for `localhost`, as that of Redis."""

    @property
    def endpoint(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def authority(self) -> Path:
        """The certificate of who signed it."""
        return self.folder / "ca.pem"

    def prepare(self) -> None:
        super().prepare()
        authority(self.folder)

    def words(self) -> list[str]:
        return [
            *super().words(),
            f"-s3.cert.file={self.folder}/server.pem",
            f"-s3.key.file={self.folder}/server.key",
        ]

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.authority))
