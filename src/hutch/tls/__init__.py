"""TLS for host names: the certificate that is given, or a local authority's; looked at before it is used."""

from hutch.tls.certificates import Certificate, TlsProblem, read_certificate
from hutch.tls.context import FreshContext
from hutch.tls.files import PemFiles, authority_file, find_files, host_of
from hutch.tls.placing import place_for

__all__ = [
    "Certificate",
    "FreshContext",
    "PemFiles",
    "TlsProblem",
    "authority_file",
    "find_files",
    "host_of",
    "place_for",
    "read_certificate",
]
