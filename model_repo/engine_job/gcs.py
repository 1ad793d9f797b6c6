"""A Cloud Storage bucket by its JSON API: Triton's image has no client of it.

https://cloud.google.com/storage/docs/json_api/v1
"""

import base64
import hashlib
import json
import os
import shutil
import urllib.error
import urllib.parse
import urllib.request
from http import HTTPStatus
from http.client import HTTPResponse
from pathlib import Path
from typing import IO, Any

_TIMEOUT_S = 300
_TOKEN_URL = "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/token"  # noqa: S105


class GcsStore:
    """One bucket, reached as the pod's service account; or an emulator's, where STORAGE_EMULATOR_HOST names one."""

    def __init__(self, bucket: str) -> None:
        self._bucket = bucket
        self._emulator = os.environ.get("STORAGE_EMULATOR_HOST")

    def read(self, path: str) -> tuple[bytes, str] | None:
        """An object's content and its generation; None where there is none."""
        try:
            with self._request("GET", self._object(path), {"alt": "media"}) as answer:
                return answer.read(), answer.headers["x-goog-generation"]
        except urllib.error.HTTPError as error:
            if error.code == HTTPStatus.NOT_FOUND:
                return None
            raise

    def write(self, path: str, content: bytes, tag: str | None) -> bool:
        """Write an object over generation ``tag``, None for over nothing; False where another came first."""
        return self._put(path, content, len(content), tag, hashlib.md5(content, usedforsecurity=False).digest())

    def upload(self, path: str, file: Path) -> bool:
        """Write a file as a new object; False where there is one of that name."""
        digest = hashlib.md5(usedforsecurity=False)
        with file.open("rb") as content:
            while chunk := content.read(1 << 20):
                digest.update(chunk)
            content.seek(0)
            return self._put(path, content, file.stat().st_size, None, digest.digest())

    def download_folder(self, prefix: str, folder: Path) -> None:
        """Write every object under ``prefix`` into ``folder``."""
        token = ""
        while True:
            with self._request(
                "GET", f"/storage/v1/b/{self._bucket}/o", {"prefix": prefix, "pageToken": token}
            ) as page:
                listed: dict[str, Any] = json.load(page)
            for item in listed.get("items", []):
                target = folder / item["name"][len(prefix) :]
                target.parent.mkdir(parents=True, exist_ok=True)
                content = self._request("GET", self._object(item["name"]), {"alt": "media"})
                with content, target.open("wb") as file:
                    shutil.copyfileobj(content, file, 1 << 20)
            token = listed.get("nextPageToken", "")
            if not token:
                return

    def copy(self, source: str, target: str) -> bool:
        """Copy an object inside the bucket without moving its bytes; False where the target is there already."""
        url, token = f"{self._object(source)}/rewriteTo{self._object(target).removeprefix('/storage/v1')}", ""
        while True:
            try:
                query = {"ifGenerationMatch": "0", **({"rewriteToken": token} if token else {})}
                # Google's front end refuses a POST without a length, and so without a body.
                with self._request("POST", url, query, b"", {"Content-Type": "application/json"}) as answer:
                    progress: dict[str, Any] = json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code == HTTPStatus.PRECONDITION_FAILED:
                    return False
                raise
            if progress["done"]:
                return True
            token = progress["rewriteToken"]

    def delete(self, path: str) -> None:
        """Remove an object that may be gone already."""
        try:
            self._request("DELETE", self._object(path), {}).close()
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.NOT_FOUND:
                raise

    def _put(self, path: str, content: "bytes | IO[bytes]", size_bytes: int, tag: str | None, md5: bytes) -> bool:
        query = {"uploadType": "media", "name": path, "ifGenerationMatch": tag or "0"}
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size_bytes)}
        url = f"/upload/storage/v1/b/{self._bucket}/o"
        try:
            with self._request("POST", url, query, content, headers) as answer:
                stored: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code == HTTPStatus.PRECONDITION_FAILED:
                return False
            raise
        if base64.b64decode(stored["md5Hash"]) != md5:
            self.delete(path)
            raise OSError(f"gs://{self._bucket}/{path} arrived damaged; try again")
        return True

    def _object(self, path: str) -> str:
        return f"/storage/v1/b/{self._bucket}/o/{urllib.parse.quote(path, safe='')}"

    def _request(
        self,
        method: str,
        path: str,
        query: dict[str, str],
        content: "bytes | IO[bytes] | None" = None,
        headers: dict[str, str] | None = None,
    ) -> HTTPResponse:
        url = f"{self._emulator or 'https://storage.googleapis.com'}{path}?{urllib.parse.urlencode(query)}"
        request = urllib.request.Request(url, content, headers or {}, method=method)  # noqa: S310 - see above
        if not self._emulator:
            request.add_header("Authorization", f"Bearer {_token()}")
        return urllib.request.urlopen(request, timeout=_TIMEOUT_S)  # noqa: S310


def _token() -> str:
    """An access token of the pod's service account; the metadata server keeps it until it is about to expire."""
    request = urllib.request.Request(_TOKEN_URL, headers={"Metadata-Flavor": "Google"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
        return json.load(answer)["access_token"]
