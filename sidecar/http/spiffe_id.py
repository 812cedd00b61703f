"""SPIFFE IDs and the rules for certificates that carry one.

Source: SPIFFE-ID.md section 2; X509-SVID.md sections 2, 4 and 5.
"""

from __future__ import annotations

import re
from typing import Final

from cryptography import x509

_SEGMENT: Final = r"(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._-]+"
_FORM: Final = re.compile(rf"spiffe://([a-z0-9._-]{{1,255}})(?:/{_SEGMENT})*")
_NAME: Final = re.compile(r"[a-z0-9._-]{1,255}")
_MAX_CHARS: Final = 2048


def trust_domain_of(spiffe_id: str) -> str | None:
    """The trust domain of an ID; None for what is no SPIFFE ID."""
    found = _FORM.fullmatch(spiffe_id) if len(spiffe_id) <= _MAX_CHARS else None
    return None if found is None else found[1]


def trust_domain_named(text: str) -> str | None:
    """A trust domain by its name or its ID (`spiffe://name`); None for anything else."""
    name = text.removeprefix("spiffe://")
    return name if _NAME.fullmatch(name) else None


def svid_id(leaf: x509.Certificate) -> str:
    """The SPIFFE ID of an X.509-SVID. Raises: ValueError, with what is wrong."""
    try:
        return _checked_id(leaf)
    except x509.ExtensionNotFound as error:
        raise ValueError("it has no SPIFFE ID") from error
    except (x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise ValueError("its extensions are of a form nobody knows") from error


def _checked_id(leaf: x509.Certificate) -> str:
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        # An SVID has exactly one URI: of several each reader could take another.
        raise ValueError(f"it has {len(uris)} URIs, and an SVID has exactly one")
    if trust_domain_of(uris[0]) is None:
        raise ValueError("its URI is no SPIFFE ID")
    if _may_sign(leaf):
        raise ValueError("it is an authority's certificate, and no workload's")
    return uris[0]


def _may_sign(leaf: x509.Certificate) -> bool:
    """Whether it is for signing certificates or revocation lists."""
    for extension in leaf.extensions:
        value = extension.value
        if isinstance(value, x509.BasicConstraints) and value.ca:
            return True
        if isinstance(value, x509.KeyUsage) and (value.key_cert_sign or value.crl_sign):
            return True
    return False
