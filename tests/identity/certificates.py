"""Certificates for tests: an authority, and what it signs for servers and clients."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

_DAY: Final = timedelta(days=1)


class Authority:
    """Signs, and writes `NAME.crt` and `NAME.key` into its folder; its own certificate is `ca_file`."""

    def __init__(self, folder: Path, name: str, trust_domain: str = "acme.example") -> None:
        self._folder, self._key, self._name = folder, ec.generate_private_key(ec.SECP256R1()), _named(name)
        own = [x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")]
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        made = _builder(self._name, self._name, self._key, ended=False).add_extension(
            x509.SubjectAlternativeName(own), critical=False
        )
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        made = made.add_extension(usage, critical=True)
        self.ca_file: Final = folder / f"{name}.pem"
        self.ca_file.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))

    def server(self, name: str, address: str) -> tuple[Path, Path]:
        return self._sign(name, [x509.IPAddress(ip_address(address))])

    def client(self, name: str, *uris: str, dns: str = "", ended: bool = False) -> tuple[Path, Path]:
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
        return self._sign(name, names + ([x509.DNSName(dns)] if dns else []), ended=ended)

    def _sign(self, name: str, names: list[x509.GeneralName], *, ended: bool = False) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        usage = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=False,
            crl_sign=False,
            encipher_only=False,
            decipher_only=False,
        )
        made = _builder(_named(name), self._name, key, ended=ended).add_extension(usage, critical=True)
        made = made.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        if names:
            made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate, private = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        certificate.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return certificate, private


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, ended: bool) -> x509.CertificateBuilder:
    """For yesterday and tomorrow, or for the day before yesterday."""
    today = datetime.now(UTC)
    begins, ends = (today - 3 * _DAY, today - 2 * _DAY) if ended else (today - _DAY, today + _DAY)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
    )
