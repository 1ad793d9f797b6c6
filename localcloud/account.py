"""What the emulated account may do: `account.json` in the emulator's state, read at each request.

Without the file everything is allowed. A test writes it to see what a user sees of an account that lacks something,
and mends it by writing it again.
"""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

ACCOUNT_FILE = "account.json"


class Account(BaseModel):
    """The limits of the emulated account."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    quotas: dict[str, int] = {}
    """Instance type → instances "for endpoint usage"; a type that is not here has no limit."""
    missing_images: frozenset[str] = frozenset()
    """URIs of images that their ECR repository does not have."""
    denied: frozenset[str] = frozenset()
    """Actions as policies name them, such as `iam:CreateRole`. Those of S3 are not looked at."""

    @classmethod
    def read(cls, state: Path) -> Self:
        """The account as it is now."""
        file = state / ACCOUNT_FILE
        return cls.model_validate_json(file.read_bytes()) if file.exists() else cls()
