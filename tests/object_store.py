"""A local S3 server (moto) that counts what it is asked, and fails on demand."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

SECRET = "do-not-print-this-secret"
ACCOUNT = {
    "AWS_ACCESS_KEY_ID": "AKIDTESTTESTTEST", "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
}  # fmt: skip
_DENIED = (
    b"<Error><Code>SignatureDoesNotMatch</Code><Message>The request signature does not match</"
    b"Message></Error>"
)


class ObjectStore:
    """The server, and a bucket in it."""

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app

        self._app: Any = DomainDispatcherApplication(create_backend_app)
        self.port = 0
        self.bucket = f"test-{uuid.uuid4().hex[:12]}"
        self.gets: list[str] = []
        """Keys of all objects that were read, one entry per request."""
        self.fail = 0
        """So many of the next reads are answered by 503."""
        self.cut = 0
        """So many of the next reads end in the middle."""
        self.denied = False
        self.start()

    def start(self) -> None:
        from werkzeug.serving import make_server

        self._server = make_server("127.0.0.1", self.port, self._answer, threaded=True)
        self.port = self._server.port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        return ACCOUNT | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}"}

    def client(self) -> Any:
        import boto3

        return boto3.client("s3", endpoint_url=self.environment["AWS_ENDPOINT_URL"])

    def upload(self, folder: Path, name: str) -> str:
        """Put a dataset there; returns its URL."""
        client = self.client()
        if self.bucket not in [b["Name"] for b in client.list_buckets()["Buckets"]]:
            client.create_bucket(Bucket=self.bucket)
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            key = f"{name}/{path.relative_to(folder)}"
            client.put_object(Bucket=self.bucket, Key=key, Body=path.read_bytes())
        return f"s3://{self.bucket}/{name}"

    def put(self, url: str, data: bytes) -> None:
        client = self.client()
        client.put_object(Bucket=self.bucket, Key=url.split("/", 3)[3], Body=data)

    def tars(self) -> list[str]:
        """Those of `gets` that are of tars."""
        return [key for key in self.gets if key.endswith(".tar")]

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = str(environ["PATH_INFO"])
        read = environ["REQUEST_METHOD"] == "GET" and path.count("/") > 1 and path[-1] != "/"
        if self.denied:
            start("403 Forbidden", [("Content-Type", "application/xml")])
            return [_DENIED]
        if read:
            self.gets.append(path.split("/", 2)[2])
        if read and self.fail:
            self.fail -= 1
            start("503 Slow Down", [("Content-Type", "application/xml")])
            return [b"<Error><Code>SlowDown</Code><Message>slow down</Message></Error>"]
        body = b"".join(self._app(environ, start))
        if read and self.cut:
            self.cut -= 1
            return [body[: len(body) // 2]]
        return [body]


def forget_connections() -> None:
    """As in a fresh process."""
    import s3fs

    from dawnchorus.trainer.data.remote import connect

    connect.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()
