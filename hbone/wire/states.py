"""python-h2 as this package drives it: it keeps the states of the connection and its streams.

Source: RFC 9113 sections 5.1 and 6.5; spec istio 1.6 (traps of python-h2).

What it does not decide here, and why:

- header fields: it could only end the connection over a bad one, and costs a loop per octet. A
  block reaches it as one opaque value; `connect` checks the fields.
- MAX_CONCURRENT_STREAMS: it would end the connection at the stream above, where that stream alone
  is refused. It is told of no limit, and the SETTINGS frame is written here.
- SETTINGS of our own: it would allow frames above 16 KiB only after the peer's ACK (and, replaced
  as a whole, never), while peers use what we announced at once.
- GOAWAY: it would refuse every later frame, and live tunnels outlast a GOAWAY.
- DATA and receive windows: see `windows`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings
from hpack import Decoder, HeaderTuple
from hyperframe.frame import SettingsFrame

from hbone.wire.connect import Field
from hbone.wire.frames import PREFACE
from hbone.wire.limits import MAX_STREAM_ID, Limits

_CARRIER: Final = b":block"


@final
class _BlockDecoder(Decoder):
    """Gives `[(b":block", fields)]`, after a `:status` of its own when it is informational."""

    def decode(self, data: bytes, raw: bool = False) -> Iterable[HeaderTuple]:
        """One complete header block. Raises: HPACKError."""
        fields = list(super().decode(data, raw=True))
        carrier: Any = HeaderTuple(_CARRIER, fields)
        if fields and fields[0][0] == b":status" and bytes(fields[0][1])[:1] == b"1":
            return [fields[0], carrier]
        return [carrier]


def block_of(event: Any) -> list[Field]:
    """The header fields of one of python-h2's events, in wire order."""
    name, fields = event.headers[-1]
    assert name == _CARRIER
    return [(bytes(field[0]), bytes(field[1])) for field in fields]


@final
class States(H2Connection):
    """See the module."""

    # Closed streams are remembered to tell a late frame from an error; 65,536, the default, would
    # cost a long-lived connection 8 MB.
    MAX_CLOSED_STREAMS = 256

    def __init__(self, limits: Limits, *, is_client: bool) -> None:
        super().__init__(
            H2Configuration(
                client_side=is_client,
                header_encoding=None,
                validate_inbound_headers=False,
                normalize_inbound_headers=False,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.local_settings = Settings(
            client=is_client,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAM_ID,
                SettingCodes.INITIAL_WINDOW_SIZE: limits.stream_window_bytes,
            },
        )
        self.max_inbound_frame_size = limits.frame_bytes
        # Twice: a list a little too long costs its stream, not the connection.
        self._header_list_bytes = (
            limits.client_header_list_bytes if is_client else limits.header_list_bytes
        )
        self.decoder = _BlockDecoder(2 * self._header_list_bytes)

    def opening(self, limits: Limits) -> bytes:
        """The preface, our SETTINGS and the connection's window."""
        self.initiate_connection()
        self.clear_outbound_data_buffer()
        settings: dict[int, int] = {
            SettingCodes.INITIAL_WINDOW_SIZE: limits.stream_window_bytes,
            SettingCodes.MAX_FRAME_SIZE: limits.frame_bytes,
            SettingCodes.MAX_HEADER_LIST_SIZE: self._header_list_bytes,
        }
        if self.config.client_side:
            settings[SettingCodes.ENABLE_PUSH] = 0
        else:
            settings[SettingCodes.MAX_CONCURRENT_STREAMS] = limits.max_streams
        if not self.config.client_side:
            self.receive_data(PREFACE)  # the peer's is checked and kept by `frames`
        preface = PREFACE if self.config.client_side else b""
        return preface + SettingsFrame(0, settings=settings).serialize()

    def _open_streams(self, remainder: int) -> int:
        # python-h2 walks every stream for each new one, to keep a limit that is not its to keep.
        return 0

    def forget(self, stream_id: int) -> None:
        """Drop a closed stream; what closed it is remembered for a while."""
        stream = self.streams.pop(stream_id, None)
        if stream is not None:
            self._closed_streams[stream_id] = stream.closed_by
