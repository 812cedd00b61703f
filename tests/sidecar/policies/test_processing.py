"""Numbers and types of the fields that go over the wire to external services.

Source: envoy.service.auth.v3, envoy.service.ext_proc.v3, envoy.config.core.v3.
"""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.policies._pb import envoy_pb2 as envoy
from sidecar.policies._pb import ext_authz_pb2 as authz
from sidecar.policies._pb import ext_proc_pb2 as proc

NUMBERS: dict[Any, dict[str, int]] = {
    envoy.HeaderValue: {"key": 1, "value": 2, "raw_value": 3},
    envoy.HeaderValueOption: {
        "header": 1,
        "append": 2,
        "append_action": 3,
        "keep_empty_value": 4,
    },
    envoy.HeaderMap: {"headers": 1},
    envoy.Metadata: {"filter_metadata": 1},
    envoy.HttpStatus: {"code": 1},
    authz.CheckRequest: {"attributes": 1},
    authz.Attributes: {
        "source": 1,
        "destination": 2,
        "request": 4,
        "context_extensions": 10,
        "metadata_context": 11,
        "tls_session": 12,
    },
    authz.Peer: {"address": 1, "principal": 4, "certificate": 5},
    authz.Address: {"socket_address": 1},
    authz.SocketAddress: {"address": 2, "port_value": 3},
    authz.Received: {"time": 1, "http": 2},
    authz.HttpRequest: {
        "method": 2,
        "headers": 3,
        "path": 4,
        "host": 5,
        "scheme": 6,
        "size": 9,
        "protocol": 10,
        "body": 11,
        "raw_body": 12,
        "header_map": 13,
    },
    authz.CheckResponse: {
        "status": 1,
        "denied_response": 2,
        "ok_response": 3,
        "dynamic_metadata": 4,
    },
    authz.Denied: {"status": 1, "headers": 2, "body": 3},
    authz.Ok: {
        "headers": 2,
        "dynamic_metadata": 3,
        "headers_to_remove": 5,
        "response_headers_to_add": 6,
        "query_parameters_to_set": 7,
        "query_parameters_to_remove": 8,
    },
    proc.ProcessingRequest: {
        "request_headers": 2,
        "response_headers": 3,
        "request_body": 4,
        "response_body": 5,
        "request_trailers": 6,
        "response_trailers": 7,
        "metadata_context": 8,
        "attributes": 9,
        "protocol_config": 11,
    },
    proc.ProcessingResponse: {
        "request_headers": 1,
        "response_headers": 2,
        "request_body": 3,
        "response_body": 4,
        "request_trailers": 5,
        "response_trailers": 6,
        "immediate_response": 7,
        "dynamic_metadata": 8,
        "mode_override": 9,
        "override_message_timeout": 10,
    },
    proc.ProtocolConfiguration: {
        "request_body_mode": 1,
        "response_body_mode": 2,
        "send_body_without_waiting_for_header_response": 3,
    },
    proc.HttpHeaders: {"headers": 1, "end_of_stream": 3},
    proc.HttpBody: {"body": 1, "end_of_stream": 2},
    proc.HttpTrailers: {"trailers": 1},
    proc.Common: {
        "status": 1,
        "header_mutation": 2,
        "body_mutation": 3,
        "trailers": 4,
        "clear_route_cache": 5,
    },
    proc.HeaderMutation: {"set_headers": 1, "remove_headers": 2},
    proc.BodyMutation: {"body": 1, "clear_body": 2, "streamed_response": 3},
    proc.StreamedBody: {"body": 1, "end_of_stream": 2},
    proc.Immediate: {"status": 1, "headers": 2, "body": 3, "grpc_status": 4, "details": 5},
    proc.Modes: {
        "request_header_mode": 1,
        "response_header_mode": 2,
        "request_body_mode": 3,
        "response_body_mode": 4,
        "request_trailer_mode": 5,
        "response_trailer_mode": 6,
    },
}


@pytest.mark.parametrize("message", NUMBERS, ids=lambda message: message.DESCRIPTOR.full_name)
def test_fields_have_envoys_numbers(message: Any) -> None:
    found = {field.name: field.number for field in message.DESCRIPTOR.fields}
    assert found == NUMBERS[message]


def test_modes_have_envoys_numbers() -> None:
    assert dict(proc.BodyMode.items()) == {
        "NONE": 0,
        "STREAMED": 1,
        "BUFFERED": 2,
        "BUFFERED_PARTIAL": 3,
        "FULL_DUPLEX_STREAMED": 4,
    }
    assert dict(proc.SendMode.items()) == {"DEFAULT": 0, "SEND": 1, "SKIP": 2}
    assert dict(envoy.HeaderValueOption.Action.items()) == {
        "APPEND_IF_EXISTS_OR_ADD": 0,
        "ADD_IF_ABSENT": 1,
        "OVERWRITE_IF_EXISTS_OR_ADD": 2,
        "OVERWRITE_IF_EXISTS": 3,
    }


def test_a_question_as_octets() -> None:
    made = proc.ProcessingRequest(request_body=proc.HttpBody(body=b"a", end_of_stream=True))
    assert made.SerializeToString() == b"\x22\x05\x0a\x01a\x10\x01"
    asked = authz.CheckRequest(attributes=authz.Attributes(tls_session=authz.TlsSession(sni="s")))
    assert asked.SerializeToString() == b"\x0a\x05\x62\x03\x0a\x01s"
