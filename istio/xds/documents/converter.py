"""The one converter: what every module beside this one knows.

Source: see plain.py.
"""

from __future__ import annotations

from typing import Final

from istio.xds.documents import backend, frontend, plain, traffic

CONVERTER: Final = plain.Converter(
    {**plain.SPECIAL, **traffic.SPECIAL, **backend.SPECIAL, **frontend.SPECIAL},
    {**traffic.RENAMED, **backend.RENAMED, **frontend.RENAMED},
)
