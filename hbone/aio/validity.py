"""Until when certificates are good, by the clock that their dates are in.

Source: RFC 5280 section 4.1.2.5.

TLS looks at dates once, in the handshake; a connection that lives longer, and our own certificate
when nobody renews it, are looked at here.
"""

from __future__ import annotations

import time


def has_passed(end: float) -> bool:
    """Whether that time, seconds since 1970, is over."""
    return time.time() >= end
