"""Names of Google service accounts, which are shorter than those of all else."""

import hashlib

# https://cloud.google.com/iam/docs/service-accounts-create: 6 to 30 characters
_LONGEST = 30
_DIGITS = 6


def account_id(name: str, suffix: str) -> str:
    """An id that fits and is no other's: a name that is cut has digits of its hash in place of what is cut off.

    Args:
        name: Lower-case letters, digits and hyphens, a letter first.
        suffix: What the account is for, at most 15 characters.
    """
    if len(f"{name}-{suffix}") <= _LONGEST:
        return f"{name}-{suffix}"
    digits = hashlib.sha256(name.encode()).hexdigest()[:_DIGITS]
    return f"{name[: _LONGEST - len(f'-{digits}-{suffix}')].rstrip('-')}-{digits}-{suffix}"
