"""The certificate authority of a local control plane, and the certificates that it issues."""

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_VALID = datetime.timedelta(days=3650)
_AUTHORITY_NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "triton-stack local")])
_SERVER_NAMES = x509.SubjectAlternativeName(
    [
        *map(x509.DNSName, ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")),
        *(x509.IPAddress(ipaddress.ip_address(address)) for address in ("127.0.0.1", "10.96.0.1")),
    ]
)
_SIGNS_CERTIFICATES = x509.KeyUsage(
    key_cert_sign=True,
    crl_sign=True,
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True)
class KeyPair:
    """A certificate and its private key, as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority kept in a folder, made on first use; strict clients accept its certificates.

    Args:
        folder: takes `ca.crt`, `ca.key` and a pair of files for each certificate; readable by its owner only.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._key_file = folder / "ca.key"
        self.certificate = folder / "ca.crt"
        if not self.certificate.exists():
            key = _new_key(self._key_file)
            builder = _builder(_AUTHORITY_NAME, key.public_key(), key)
            builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            _sign(builder.add_extension(_SIGNS_CERTIFICATES, critical=True), key, self.certificate)

    def administrator(self) -> KeyPair:
        """The client certificate of a user who may do everything."""
        names = [
            x509.NameAttribute(NameOID.COMMON_NAME, "admin"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:masters"),
        ]
        return self._issue("admin", x509.Name(names), x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]))

    def server(self) -> KeyPair:
        """The API server's certificate, for loopback and for the names of the Service `kubernetes`."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kube-apiserver")])
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        return self._issue("kube-apiserver", name, usage, _SERVER_NAMES)

    def service_accounts(self) -> KeyPair:
        """The key that signs service accounts' tokens; its public key stands in the place of a certificate."""
        pair = KeyPair(self._folder / "service-accounts.pub", self._folder / "service-accounts.key")
        if not pair.certificate.exists():
            public = _new_key(pair.key).public_key()
            pair.certificate.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        return pair

    def _issue(self, file: str, subject: x509.Name, *extensions: x509.ExtensionType) -> KeyPair:
        pair = KeyPair(self._folder / f"{file}.crt", self._folder / f"{file}.key")
        if not pair.certificate.exists():
            signer = cast("ec.EllipticCurvePrivateKey", load_pem_private_key(self._key_file.read_bytes(), None))
            builder = _builder(subject, _new_key(pair.key).public_key(), signer)
            for extension in extensions:
                builder = builder.add_extension(extension, critical=False)
            _sign(builder, signer, pair.certificate)
        return pair


def _new_key(file: Path) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(ec.SECP256R1())
    file.touch(mode=0o600)
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return key


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePublicKey, signer: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(_AUTHORITY_NAME)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))  # a virtual machine's clock may lag
        .not_valid_after(now + _VALID)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )


def _sign(builder: x509.CertificateBuilder, signer: ec.EllipticCurvePrivateKey, file: Path) -> None:
    file.write_bytes(builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.PEM))
