import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from istio.xds._pb import workload_pb2 as _workload_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Protocol(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UNKNOWN: _ClassVar[Protocol]
    HTTP: _ClassVar[Protocol]
    HTTPS: _ClassVar[Protocol]
    TLS: _ClassVar[Protocol]
    TCP: _ClassVar[Protocol]
    HBONE: _ClassVar[Protocol]

class JwtSigningAlg(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JWT_SIGNING_ALG_UNSPECIFIED: _ClassVar[JwtSigningAlg]
    RS256: _ClassVar[JwtSigningAlg]
    RS384: _ClassVar[JwtSigningAlg]
    RS512: _ClassVar[JwtSigningAlg]
    ES256: _ClassVar[JwtSigningAlg]
    ES384: _ClassVar[JwtSigningAlg]
    PS256: _ClassVar[JwtSigningAlg]
UNKNOWN: Protocol
HTTP: Protocol
HTTPS: Protocol
TLS: Protocol
TCP: Protocol
HBONE: Protocol
JWT_SIGNING_ALG_UNSPECIFIED: JwtSigningAlg
RS256: JwtSigningAlg
RS384: JwtSigningAlg
RS512: JwtSigningAlg
ES256: JwtSigningAlg
ES384: JwtSigningAlg
PS256: JwtSigningAlg

class Resource(_message.Message):
    __slots__ = ("bind", "listener", "route", "backend", "policy", "tcp_route", "workload", "service", "route_group", "model_route")
    BIND_FIELD_NUMBER: _ClassVar[int]
    LISTENER_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    TCP_ROUTE_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    ROUTE_GROUP_FIELD_NUMBER: _ClassVar[int]
    MODEL_ROUTE_FIELD_NUMBER: _ClassVar[int]
    bind: Bind
    listener: Listener
    route: Route
    backend: Backend
    policy: Policy
    tcp_route: TCPRoute
    workload: _workload_pb2.Workload
    service: _workload_pb2.Service
    route_group: RouteGroup
    model_route: ModelRoute
    def __init__(self, bind: _Optional[_Union[Bind, _Mapping]] = ..., listener: _Optional[_Union[Listener, _Mapping]] = ..., route: _Optional[_Union[Route, _Mapping]] = ..., backend: _Optional[_Union[Backend, _Mapping]] = ..., policy: _Optional[_Union[Policy, _Mapping]] = ..., tcp_route: _Optional[_Union[TCPRoute, _Mapping]] = ..., workload: _Optional[_Union[_workload_pb2.Workload, _Mapping]] = ..., service: _Optional[_Union[_workload_pb2.Service, _Mapping]] = ..., route_group: _Optional[_Union[RouteGroup, _Mapping]] = ..., model_route: _Optional[_Union[ModelRoute, _Mapping]] = ...) -> None: ...

class Bind(_message.Message):
    __slots__ = ("key", "port", "protocol", "tunnel_protocol", "mode")
    class Protocol(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        HTTP: _ClassVar[Bind.Protocol]
        TCP: _ClassVar[Bind.Protocol]
        TLS: _ClassVar[Bind.Protocol]
    HTTP: Bind.Protocol
    TCP: Bind.Protocol
    TLS: Bind.Protocol
    class TunnelProtocol(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        DIRECT: _ClassVar[Bind.TunnelProtocol]
        PROXY: _ClassVar[Bind.TunnelProtocol]
        HBONE_WAYPOINT: _ClassVar[Bind.TunnelProtocol]
        HBONE_GATEWAY: _ClassVar[Bind.TunnelProtocol]
        CONNECT: _ClassVar[Bind.TunnelProtocol]
    DIRECT: Bind.TunnelProtocol
    PROXY: Bind.TunnelProtocol
    HBONE_WAYPOINT: Bind.TunnelProtocol
    HBONE_GATEWAY: Bind.TunnelProtocol
    CONNECT: Bind.TunnelProtocol
    class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STANDARD: _ClassVar[Bind.Mode]
        INTERNAL: _ClassVar[Bind.Mode]
    STANDARD: Bind.Mode
    INTERNAL: Bind.Mode
    KEY_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    TUNNEL_PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    key: str
    port: int
    protocol: Bind.Protocol
    tunnel_protocol: Bind.TunnelProtocol
    mode: Bind.Mode
    def __init__(self, key: _Optional[str] = ..., port: _Optional[int] = ..., protocol: _Optional[_Union[Bind.Protocol, str]] = ..., tunnel_protocol: _Optional[_Union[Bind.TunnelProtocol, str]] = ..., mode: _Optional[_Union[Bind.Mode, str]] = ...) -> None: ...

class RouteName(_message.Message):
    __slots__ = ("kind", "name", "namespace", "rule_name")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    RULE_NAME_FIELD_NUMBER: _ClassVar[int]
    kind: str
    name: str
    namespace: str
    rule_name: str
    def __init__(self, kind: _Optional[str] = ..., name: _Optional[str] = ..., namespace: _Optional[str] = ..., rule_name: _Optional[str] = ...) -> None: ...

class ListenerName(_message.Message):
    __slots__ = ("gateway_name", "gateway_namespace", "listener_name", "listener_set")
    GATEWAY_NAME_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    LISTENER_NAME_FIELD_NUMBER: _ClassVar[int]
    LISTENER_SET_FIELD_NUMBER: _ClassVar[int]
    gateway_name: str
    gateway_namespace: str
    listener_name: str
    listener_set: ResourceName
    def __init__(self, gateway_name: _Optional[str] = ..., gateway_namespace: _Optional[str] = ..., listener_name: _Optional[str] = ..., listener_set: _Optional[_Union[ResourceName, _Mapping]] = ...) -> None: ...

class ResourceName(_message.Message):
    __slots__ = ("name", "namespace")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    name: str
    namespace: str
    def __init__(self, name: _Optional[str] = ..., namespace: _Optional[str] = ...) -> None: ...

class TypedResourceName(_message.Message):
    __slots__ = ("name", "namespace", "kind")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    name: str
    namespace: str
    kind: str
    def __init__(self, name: _Optional[str] = ..., namespace: _Optional[str] = ..., kind: _Optional[str] = ...) -> None: ...

class Listener(_message.Message):
    __slots__ = ("key", "bind_key", "name", "hostname", "protocol", "tls")
    KEY_FIELD_NUMBER: _ClassVar[int]
    BIND_KEY_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    TLS_FIELD_NUMBER: _ClassVar[int]
    key: str
    bind_key: str
    name: ListenerName
    hostname: str
    protocol: Protocol
    tls: TLSConfig
    def __init__(self, key: _Optional[str] = ..., bind_key: _Optional[str] = ..., name: _Optional[_Union[ListenerName, _Mapping]] = ..., hostname: _Optional[str] = ..., protocol: _Optional[_Union[Protocol, str]] = ..., tls: _Optional[_Union[TLSConfig, _Mapping]] = ...) -> None: ...

class Route(_message.Message):
    __slots__ = ("key", "listener_key", "service_key", "service_port", "route_group_key", "name", "hostnames", "matches", "backends", "traffic_policies")
    KEY_FIELD_NUMBER: _ClassVar[int]
    LISTENER_KEY_FIELD_NUMBER: _ClassVar[int]
    SERVICE_KEY_FIELD_NUMBER: _ClassVar[int]
    SERVICE_PORT_FIELD_NUMBER: _ClassVar[int]
    ROUTE_GROUP_KEY_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    HOSTNAMES_FIELD_NUMBER: _ClassVar[int]
    MATCHES_FIELD_NUMBER: _ClassVar[int]
    BACKENDS_FIELD_NUMBER: _ClassVar[int]
    TRAFFIC_POLICIES_FIELD_NUMBER: _ClassVar[int]
    key: str
    listener_key: str
    service_key: _workload_pb2.NamespacedHostname
    service_port: int
    route_group_key: str
    name: RouteName
    hostnames: _containers.RepeatedScalarFieldContainer[str]
    matches: _containers.RepeatedCompositeFieldContainer[RouteMatch]
    backends: _containers.RepeatedCompositeFieldContainer[RouteBackend]
    traffic_policies: _containers.RepeatedCompositeFieldContainer[TrafficPolicySpec]
    def __init__(self, key: _Optional[str] = ..., listener_key: _Optional[str] = ..., service_key: _Optional[_Union[_workload_pb2.NamespacedHostname, _Mapping]] = ..., service_port: _Optional[int] = ..., route_group_key: _Optional[str] = ..., name: _Optional[_Union[RouteName, _Mapping]] = ..., hostnames: _Optional[_Iterable[str]] = ..., matches: _Optional[_Iterable[_Union[RouteMatch, _Mapping]]] = ..., backends: _Optional[_Iterable[_Union[RouteBackend, _Mapping]]] = ..., traffic_policies: _Optional[_Iterable[_Union[TrafficPolicySpec, _Mapping]]] = ...) -> None: ...

class RouteGroup(_message.Message):
    __slots__ = ("key", "namespace", "name")
    KEY_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    key: str
    namespace: str
    name: str
    def __init__(self, key: _Optional[str] = ..., namespace: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class TCPRoute(_message.Message):
    __slots__ = ("key", "listener_key", "service_key", "service_port", "name", "hostnames", "backends")
    KEY_FIELD_NUMBER: _ClassVar[int]
    LISTENER_KEY_FIELD_NUMBER: _ClassVar[int]
    SERVICE_KEY_FIELD_NUMBER: _ClassVar[int]
    SERVICE_PORT_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    HOSTNAMES_FIELD_NUMBER: _ClassVar[int]
    BACKENDS_FIELD_NUMBER: _ClassVar[int]
    key: str
    listener_key: str
    service_key: _workload_pb2.NamespacedHostname
    service_port: int
    name: RouteName
    hostnames: _containers.RepeatedScalarFieldContainer[str]
    backends: _containers.RepeatedCompositeFieldContainer[RouteBackend]
    def __init__(self, key: _Optional[str] = ..., listener_key: _Optional[str] = ..., service_key: _Optional[_Union[_workload_pb2.NamespacedHostname, _Mapping]] = ..., service_port: _Optional[int] = ..., name: _Optional[_Union[RouteName, _Mapping]] = ..., hostnames: _Optional[_Iterable[str]] = ..., backends: _Optional[_Iterable[_Union[RouteBackend, _Mapping]]] = ...) -> None: ...

class ConditionalPolicies(_message.Message):
    __slots__ = ("policies",)
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    policies: _containers.RepeatedCompositeFieldContainer[ConditionalPolicy]
    def __init__(self, policies: _Optional[_Iterable[_Union[ConditionalPolicy, _Mapping]]] = ...) -> None: ...

class ConditionalPolicy(_message.Message):
    __slots__ = ("condition", "traffic")
    CONDITION_FIELD_NUMBER: _ClassVar[int]
    TRAFFIC_FIELD_NUMBER: _ClassVar[int]
    condition: str
    traffic: TrafficPolicySpec
    def __init__(self, condition: _Optional[str] = ..., traffic: _Optional[_Union[TrafficPolicySpec, _Mapping]] = ...) -> None: ...

class Policy(_message.Message):
    __slots__ = ("key", "name", "target", "inheritance", "traffic", "backend", "frontend", "conditional")
    class Inheritance(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        DEFAULT: _ClassVar[Policy.Inheritance]
        OVERRIDE: _ClassVar[Policy.Inheritance]
    DEFAULT: Policy.Inheritance
    OVERRIDE: Policy.Inheritance
    KEY_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    INHERITANCE_FIELD_NUMBER: _ClassVar[int]
    TRAFFIC_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    FRONTEND_FIELD_NUMBER: _ClassVar[int]
    CONDITIONAL_FIELD_NUMBER: _ClassVar[int]
    key: str
    name: TypedResourceName
    target: PolicyTarget
    inheritance: Policy.Inheritance
    traffic: TrafficPolicySpec
    backend: BackendPolicySpec
    frontend: FrontendPolicySpec
    conditional: ConditionalPolicies
    def __init__(self, key: _Optional[str] = ..., name: _Optional[_Union[TypedResourceName, _Mapping]] = ..., target: _Optional[_Union[PolicyTarget, _Mapping]] = ..., inheritance: _Optional[_Union[Policy.Inheritance, str]] = ..., traffic: _Optional[_Union[TrafficPolicySpec, _Mapping]] = ..., backend: _Optional[_Union[BackendPolicySpec, _Mapping]] = ..., frontend: _Optional[_Union[FrontendPolicySpec, _Mapping]] = ..., conditional: _Optional[_Union[ConditionalPolicies, _Mapping]] = ...) -> None: ...

class Backend(_message.Message):
    __slots__ = ("key", "name", "inline_policies", "static", "ai", "mcp", "dynamic", "aws", "guardrail", "model_router")
    KEY_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    INLINE_POLICIES_FIELD_NUMBER: _ClassVar[int]
    STATIC_FIELD_NUMBER: _ClassVar[int]
    AI_FIELD_NUMBER: _ClassVar[int]
    MCP_FIELD_NUMBER: _ClassVar[int]
    DYNAMIC_FIELD_NUMBER: _ClassVar[int]
    AWS_FIELD_NUMBER: _ClassVar[int]
    GUARDRAIL_FIELD_NUMBER: _ClassVar[int]
    MODEL_ROUTER_FIELD_NUMBER: _ClassVar[int]
    key: str
    name: ResourceName
    inline_policies: _containers.RepeatedCompositeFieldContainer[BackendPolicySpec]
    static: StaticBackend
    ai: AIBackend
    mcp: MCPBackend
    dynamic: DynamicForwardProxy
    aws: AwsBackend
    guardrail: GuardrailBackend
    model_router: ModelRouterBackend
    def __init__(self, key: _Optional[str] = ..., name: _Optional[_Union[ResourceName, _Mapping]] = ..., inline_policies: _Optional[_Iterable[_Union[BackendPolicySpec, _Mapping]]] = ..., static: _Optional[_Union[StaticBackend, _Mapping]] = ..., ai: _Optional[_Union[AIBackend, _Mapping]] = ..., mcp: _Optional[_Union[MCPBackend, _Mapping]] = ..., dynamic: _Optional[_Union[DynamicForwardProxy, _Mapping]] = ..., aws: _Optional[_Union[AwsBackend, _Mapping]] = ..., guardrail: _Optional[_Union[GuardrailBackend, _Mapping]] = ..., model_router: _Optional[_Union[ModelRouterBackend, _Mapping]] = ...) -> None: ...

class ModelRouterBackend(_message.Message):
    __slots__ = ("router_key",)
    ROUTER_KEY_FIELD_NUMBER: _ClassVar[int]
    router_key: str
    def __init__(self, router_key: _Optional[str] = ...) -> None: ...

class GuardrailBackend(_message.Message):
    __slots__ = ("bedrock", "google_model_armor", "azure_content_safety", "openai_moderation")
    class Bedrock(_message.Message):
        __slots__ = ("identifier", "version", "region")
        IDENTIFIER_FIELD_NUMBER: _ClassVar[int]
        VERSION_FIELD_NUMBER: _ClassVar[int]
        REGION_FIELD_NUMBER: _ClassVar[int]
        identifier: str
        version: str
        region: str
        def __init__(self, identifier: _Optional[str] = ..., version: _Optional[str] = ..., region: _Optional[str] = ...) -> None: ...
    class GoogleModelArmor(_message.Message):
        __slots__ = ("template_id", "project_id", "location")
        TEMPLATE_ID_FIELD_NUMBER: _ClassVar[int]
        PROJECT_ID_FIELD_NUMBER: _ClassVar[int]
        LOCATION_FIELD_NUMBER: _ClassVar[int]
        template_id: str
        project_id: str
        location: str
        def __init__(self, template_id: _Optional[str] = ..., project_id: _Optional[str] = ..., location: _Optional[str] = ...) -> None: ...
    class AzureContentSafety(_message.Message):
        __slots__ = ("resource_name", "endpoint")
        RESOURCE_NAME_FIELD_NUMBER: _ClassVar[int]
        ENDPOINT_FIELD_NUMBER: _ClassVar[int]
        resource_name: str
        endpoint: str
        def __init__(self, resource_name: _Optional[str] = ..., endpoint: _Optional[str] = ...) -> None: ...
    class OpenAIModeration(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    BEDROCK_FIELD_NUMBER: _ClassVar[int]
    GOOGLE_MODEL_ARMOR_FIELD_NUMBER: _ClassVar[int]
    AZURE_CONTENT_SAFETY_FIELD_NUMBER: _ClassVar[int]
    OPENAI_MODERATION_FIELD_NUMBER: _ClassVar[int]
    bedrock: GuardrailBackend.Bedrock
    google_model_armor: GuardrailBackend.GoogleModelArmor
    azure_content_safety: GuardrailBackend.AzureContentSafety
    openai_moderation: GuardrailBackend.OpenAIModeration
    def __init__(self, bedrock: _Optional[_Union[GuardrailBackend.Bedrock, _Mapping]] = ..., google_model_armor: _Optional[_Union[GuardrailBackend.GoogleModelArmor, _Mapping]] = ..., azure_content_safety: _Optional[_Union[GuardrailBackend.AzureContentSafety, _Mapping]] = ..., openai_moderation: _Optional[_Union[GuardrailBackend.OpenAIModeration, _Mapping]] = ...) -> None: ...

class TLSConfig(_message.Message):
    __slots__ = ("cert", "private_key", "root", "cipher_suites", "min_version", "max_version", "mtls_mode", "key_exchange_groups", "certificate_source")
    class CertificateSource(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        INLINE: _ClassVar[TLSConfig.CertificateSource]
        ISTIO_WORKLOAD: _ClassVar[TLSConfig.CertificateSource]
        DYNAMIC_CA: _ClassVar[TLSConfig.CertificateSource]
        SPIFFE: _ClassVar[TLSConfig.CertificateSource]
    INLINE: TLSConfig.CertificateSource
    ISTIO_WORKLOAD: TLSConfig.CertificateSource
    DYNAMIC_CA: TLSConfig.CertificateSource
    SPIFFE: TLSConfig.CertificateSource
    class TLSVersion(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        TLS_VERSION_UNSPECIFIED: _ClassVar[TLSConfig.TLSVersion]
        TLS_V1_2: _ClassVar[TLSConfig.TLSVersion]
        TLS_V1_3: _ClassVar[TLSConfig.TLSVersion]
    TLS_VERSION_UNSPECIFIED: TLSConfig.TLSVersion
    TLS_V1_2: TLSConfig.TLSVersion
    TLS_V1_3: TLSConfig.TLSVersion
    class MTLSMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STRICT: _ClassVar[TLSConfig.MTLSMode]
        ALLOW_INSECURE_FALLBACK: _ClassVar[TLSConfig.MTLSMode]
        DISABLE: _ClassVar[TLSConfig.MTLSMode]
    STRICT: TLSConfig.MTLSMode
    ALLOW_INSECURE_FALLBACK: TLSConfig.MTLSMode
    DISABLE: TLSConfig.MTLSMode
    class CipherSuite(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        CIPHER_SUITE_UNSPECIFIED: _ClassVar[TLSConfig.CipherSuite]
        TLS_AES_256_GCM_SHA384: _ClassVar[TLSConfig.CipherSuite]
        TLS_AES_128_GCM_SHA256: _ClassVar[TLSConfig.CipherSuite]
        TLS_CHACHA20_POLY1305_SHA256: _ClassVar[TLSConfig.CipherSuite]
        TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384: _ClassVar[TLSConfig.CipherSuite]
        TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256: _ClassVar[TLSConfig.CipherSuite]
        TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256: _ClassVar[TLSConfig.CipherSuite]
        TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384: _ClassVar[TLSConfig.CipherSuite]
        TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256: _ClassVar[TLSConfig.CipherSuite]
        TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256: _ClassVar[TLSConfig.CipherSuite]
    CIPHER_SUITE_UNSPECIFIED: TLSConfig.CipherSuite
    TLS_AES_256_GCM_SHA384: TLSConfig.CipherSuite
    TLS_AES_128_GCM_SHA256: TLSConfig.CipherSuite
    TLS_CHACHA20_POLY1305_SHA256: TLSConfig.CipherSuite
    TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384: TLSConfig.CipherSuite
    TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256: TLSConfig.CipherSuite
    TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256: TLSConfig.CipherSuite
    TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384: TLSConfig.CipherSuite
    TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256: TLSConfig.CipherSuite
    TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256: TLSConfig.CipherSuite
    class KeyExchangeGroup(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KEY_EXCHANGE_GROUP_UNSPECIFIED: _ClassVar[TLSConfig.KeyExchangeGroup]
        X25519: _ClassVar[TLSConfig.KeyExchangeGroup]
        P256: _ClassVar[TLSConfig.KeyExchangeGroup]
        P384: _ClassVar[TLSConfig.KeyExchangeGroup]
        X25519_MLKEM768: _ClassVar[TLSConfig.KeyExchangeGroup]
    KEY_EXCHANGE_GROUP_UNSPECIFIED: TLSConfig.KeyExchangeGroup
    X25519: TLSConfig.KeyExchangeGroup
    P256: TLSConfig.KeyExchangeGroup
    P384: TLSConfig.KeyExchangeGroup
    X25519_MLKEM768: TLSConfig.KeyExchangeGroup
    CERT_FIELD_NUMBER: _ClassVar[int]
    PRIVATE_KEY_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    CIPHER_SUITES_FIELD_NUMBER: _ClassVar[int]
    MIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    MAX_VERSION_FIELD_NUMBER: _ClassVar[int]
    MTLS_MODE_FIELD_NUMBER: _ClassVar[int]
    KEY_EXCHANGE_GROUPS_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_SOURCE_FIELD_NUMBER: _ClassVar[int]
    cert: bytes
    private_key: bytes
    root: bytes
    cipher_suites: _containers.RepeatedScalarFieldContainer[TLSConfig.CipherSuite]
    min_version: TLSConfig.TLSVersion
    max_version: TLSConfig.TLSVersion
    mtls_mode: TLSConfig.MTLSMode
    key_exchange_groups: _containers.RepeatedScalarFieldContainer[TLSConfig.KeyExchangeGroup]
    certificate_source: TLSConfig.CertificateSource
    def __init__(self, cert: _Optional[bytes] = ..., private_key: _Optional[bytes] = ..., root: _Optional[bytes] = ..., cipher_suites: _Optional[_Iterable[_Union[TLSConfig.CipherSuite, str]]] = ..., min_version: _Optional[_Union[TLSConfig.TLSVersion, str]] = ..., max_version: _Optional[_Union[TLSConfig.TLSVersion, str]] = ..., mtls_mode: _Optional[_Union[TLSConfig.MTLSMode, str]] = ..., key_exchange_groups: _Optional[_Iterable[_Union[TLSConfig.KeyExchangeGroup, str]]] = ..., certificate_source: _Optional[_Union[TLSConfig.CertificateSource, str]] = ...) -> None: ...

class Timeout(_message.Message):
    __slots__ = ("request", "backend_request")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    BACKEND_REQUEST_FIELD_NUMBER: _ClassVar[int]
    request: _duration_pb2.Duration
    backend_request: _duration_pb2.Duration
    def __init__(self, request: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., backend_request: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Retry(_message.Message):
    __slots__ = ("retry_status_codes", "attempts", "backoff", "precondition", "condition")
    RETRY_STATUS_CODES_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    BACKOFF_FIELD_NUMBER: _ClassVar[int]
    PRECONDITION_FIELD_NUMBER: _ClassVar[int]
    CONDITION_FIELD_NUMBER: _ClassVar[int]
    retry_status_codes: _containers.RepeatedScalarFieldContainer[int]
    attempts: int
    backoff: _duration_pb2.Duration
    precondition: str
    condition: str
    def __init__(self, retry_status_codes: _Optional[_Iterable[int]] = ..., attempts: _Optional[int] = ..., backoff: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., precondition: _Optional[str] = ..., condition: _Optional[str] = ...) -> None: ...

class Delay(_message.Message):
    __slots__ = ("duration",)
    DURATION_FIELD_NUMBER: _ClassVar[int]
    duration: str
    def __init__(self, duration: _Optional[str] = ...) -> None: ...

class BackendAuthPolicy(_message.Message):
    __slots__ = ("credentials", "passthrough", "key", "gcp", "aws", "azure", "oauth_token_exchange", "cross_app_access", "jwt_sign")
    CREDENTIALS_FIELD_NUMBER: _ClassVar[int]
    PASSTHROUGH_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    GCP_FIELD_NUMBER: _ClassVar[int]
    AWS_FIELD_NUMBER: _ClassVar[int]
    AZURE_FIELD_NUMBER: _ClassVar[int]
    OAUTH_TOKEN_EXCHANGE_FIELD_NUMBER: _ClassVar[int]
    CROSS_APP_ACCESS_FIELD_NUMBER: _ClassVar[int]
    JWT_SIGN_FIELD_NUMBER: _ClassVar[int]
    credentials: _containers.RepeatedCompositeFieldContainer[BackendAuthCredential]
    passthrough: Passthrough
    key: Key
    gcp: Gcp
    aws: Aws
    azure: Azure
    oauth_token_exchange: OAuthTokenExchange
    cross_app_access: CrossAppAccessAuth
    jwt_sign: JwtSign
    def __init__(self, credentials: _Optional[_Iterable[_Union[BackendAuthCredential, _Mapping]]] = ..., passthrough: _Optional[_Union[Passthrough, _Mapping]] = ..., key: _Optional[_Union[Key, _Mapping]] = ..., gcp: _Optional[_Union[Gcp, _Mapping]] = ..., aws: _Optional[_Union[Aws, _Mapping]] = ..., azure: _Optional[_Union[Azure, _Mapping]] = ..., oauth_token_exchange: _Optional[_Union[OAuthTokenExchange, _Mapping]] = ..., cross_app_access: _Optional[_Union[CrossAppAccessAuth, _Mapping]] = ..., jwt_sign: _Optional[_Union[JwtSign, _Mapping]] = ...) -> None: ...

class BackendAuthCredential(_message.Message):
    __slots__ = ("location", "value")
    LOCATION_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    location: AuthorizationLocation
    value: str
    def __init__(self, location: _Optional[_Union[AuthorizationLocation, _Mapping]] = ..., value: _Optional[str] = ...) -> None: ...

class AuthorizationLocation(_message.Message):
    __slots__ = ("header", "query_parameter", "cookie", "expression")
    class Header(_message.Message):
        __slots__ = ("name", "prefix")
        NAME_FIELD_NUMBER: _ClassVar[int]
        PREFIX_FIELD_NUMBER: _ClassVar[int]
        name: str
        prefix: str
        def __init__(self, name: _Optional[str] = ..., prefix: _Optional[str] = ...) -> None: ...
    class QueryParameter(_message.Message):
        __slots__ = ("name",)
        NAME_FIELD_NUMBER: _ClassVar[int]
        name: str
        def __init__(self, name: _Optional[str] = ...) -> None: ...
    class Cookie(_message.Message):
        __slots__ = ("name",)
        NAME_FIELD_NUMBER: _ClassVar[int]
        name: str
        def __init__(self, name: _Optional[str] = ...) -> None: ...
    HEADER_FIELD_NUMBER: _ClassVar[int]
    QUERY_PARAMETER_FIELD_NUMBER: _ClassVar[int]
    COOKIE_FIELD_NUMBER: _ClassVar[int]
    EXPRESSION_FIELD_NUMBER: _ClassVar[int]
    header: AuthorizationLocation.Header
    query_parameter: AuthorizationLocation.QueryParameter
    cookie: AuthorizationLocation.Cookie
    expression: str
    def __init__(self, header: _Optional[_Union[AuthorizationLocation.Header, _Mapping]] = ..., query_parameter: _Optional[_Union[AuthorizationLocation.QueryParameter, _Mapping]] = ..., cookie: _Optional[_Union[AuthorizationLocation.Cookie, _Mapping]] = ..., expression: _Optional[str] = ...) -> None: ...

class Passthrough(_message.Message):
    __slots__ = ("authorization_location",)
    AUTHORIZATION_LOCATION_FIELD_NUMBER: _ClassVar[int]
    authorization_location: AuthorizationLocation
    def __init__(self, authorization_location: _Optional[_Union[AuthorizationLocation, _Mapping]] = ...) -> None: ...

class Key(_message.Message):
    __slots__ = ("secret", "authorization_location")
    SECRET_FIELD_NUMBER: _ClassVar[int]
    AUTHORIZATION_LOCATION_FIELD_NUMBER: _ClassVar[int]
    secret: str
    authorization_location: AuthorizationLocation
    def __init__(self, secret: _Optional[str] = ..., authorization_location: _Optional[_Union[AuthorizationLocation, _Mapping]] = ...) -> None: ...

class JwtSign(_message.Message):
    __slots__ = ("signing_key", "alg", "kid", "claims", "ttl", "authorization_location", "translation_error")
    class ClaimsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _struct_pb2.Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ...) -> None: ...
    SIGNING_KEY_FIELD_NUMBER: _ClassVar[int]
    ALG_FIELD_NUMBER: _ClassVar[int]
    KID_FIELD_NUMBER: _ClassVar[int]
    CLAIMS_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    AUTHORIZATION_LOCATION_FIELD_NUMBER: _ClassVar[int]
    TRANSLATION_ERROR_FIELD_NUMBER: _ClassVar[int]
    signing_key: str
    alg: JwtSigningAlg
    kid: str
    claims: _containers.MessageMap[str, _struct_pb2.Value]
    ttl: _duration_pb2.Duration
    authorization_location: AuthorizationLocation
    translation_error: str
    def __init__(self, signing_key: _Optional[str] = ..., alg: _Optional[_Union[JwtSigningAlg, str]] = ..., kid: _Optional[str] = ..., claims: _Optional[_Mapping[str, _struct_pb2.Value]] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., authorization_location: _Optional[_Union[AuthorizationLocation, _Mapping]] = ..., translation_error: _Optional[str] = ...) -> None: ...

class Gcp(_message.Message):
    __slots__ = ("credential", "access_token", "id_token")
    class AccessToken(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    class IdToken(_message.Message):
        __slots__ = ("audience",)
        AUDIENCE_FIELD_NUMBER: _ClassVar[int]
        audience: str
        def __init__(self, audience: _Optional[str] = ...) -> None: ...
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    ACCESS_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ID_TOKEN_FIELD_NUMBER: _ClassVar[int]
    credential: str
    access_token: Gcp.AccessToken
    id_token: Gcp.IdToken
    def __init__(self, credential: _Optional[str] = ..., access_token: _Optional[_Union[Gcp.AccessToken, _Mapping]] = ..., id_token: _Optional[_Union[Gcp.IdToken, _Mapping]] = ...) -> None: ...

class Aws(_message.Message):
    __slots__ = ("service_name", "assume_role", "region", "explicit_config", "implicit")
    SERVICE_NAME_FIELD_NUMBER: _ClassVar[int]
    ASSUME_ROLE_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    EXPLICIT_CONFIG_FIELD_NUMBER: _ClassVar[int]
    IMPLICIT_FIELD_NUMBER: _ClassVar[int]
    service_name: str
    assume_role: AwsAssumeRole
    region: str
    explicit_config: AwsExplicitConfig
    implicit: AwsImplicit
    def __init__(self, service_name: _Optional[str] = ..., assume_role: _Optional[_Union[AwsAssumeRole, _Mapping]] = ..., region: _Optional[str] = ..., explicit_config: _Optional[_Union[AwsExplicitConfig, _Mapping]] = ..., implicit: _Optional[_Union[AwsImplicit, _Mapping]] = ...) -> None: ...

class Azure(_message.Message):
    __slots__ = ("explicit_config", "developer_implicit", "implicit")
    EXPLICIT_CONFIG_FIELD_NUMBER: _ClassVar[int]
    DEVELOPER_IMPLICIT_FIELD_NUMBER: _ClassVar[int]
    IMPLICIT_FIELD_NUMBER: _ClassVar[int]
    explicit_config: AzureExplicitConfig
    developer_implicit: AzureDeveloperImplicit
    implicit: AzureImplicit
    def __init__(self, explicit_config: _Optional[_Union[AzureExplicitConfig, _Mapping]] = ..., developer_implicit: _Optional[_Union[AzureDeveloperImplicit, _Mapping]] = ..., implicit: _Optional[_Union[AzureImplicit, _Mapping]] = ...) -> None: ...

class AwsExplicitConfig(_message.Message):
    __slots__ = ("access_key_id", "secret_access_key", "region", "session_token")
    ACCESS_KEY_ID_FIELD_NUMBER: _ClassVar[int]
    SECRET_ACCESS_KEY_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    SESSION_TOKEN_FIELD_NUMBER: _ClassVar[int]
    access_key_id: str
    secret_access_key: str
    region: str
    session_token: str
    def __init__(self, access_key_id: _Optional[str] = ..., secret_access_key: _Optional[str] = ..., region: _Optional[str] = ..., session_token: _Optional[str] = ...) -> None: ...

class AwsImplicit(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AwsAssumeRole(_message.Message):
    __slots__ = ("role_arn", "session_name", "tags", "session_name_expression")
    ROLE_ARN_FIELD_NUMBER: _ClassVar[int]
    SESSION_NAME_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    SESSION_NAME_EXPRESSION_FIELD_NUMBER: _ClassVar[int]
    role_arn: str
    session_name: str
    tags: _containers.RepeatedCompositeFieldContainer[AwsSessionTag]
    session_name_expression: str
    def __init__(self, role_arn: _Optional[str] = ..., session_name: _Optional[str] = ..., tags: _Optional[_Iterable[_Union[AwsSessionTag, _Mapping]]] = ..., session_name_expression: _Optional[str] = ...) -> None: ...

class AwsSessionTag(_message.Message):
    __slots__ = ("key", "value", "expression")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    EXPRESSION_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: str
    expression: str
    def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ..., expression: _Optional[str] = ...) -> None: ...

class AzureExplicitConfig(_message.Message):
    __slots__ = ("client_secret", "managed_identity_credential", "workload_identity_credential")
    CLIENT_SECRET_FIELD_NUMBER: _ClassVar[int]
    MANAGED_IDENTITY_CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_IDENTITY_CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    client_secret: AzureClientSecret
    managed_identity_credential: AzureManagedIdentityCredential
    workload_identity_credential: AzureWorkloadIdentityCredential
    def __init__(self, client_secret: _Optional[_Union[AzureClientSecret, _Mapping]] = ..., managed_identity_credential: _Optional[_Union[AzureManagedIdentityCredential, _Mapping]] = ..., workload_identity_credential: _Optional[_Union[AzureWorkloadIdentityCredential, _Mapping]] = ...) -> None: ...

class AzureClientSecret(_message.Message):
    __slots__ = ("tenant_id", "client_id", "client_secret")
    TENANT_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_SECRET_FIELD_NUMBER: _ClassVar[int]
    tenant_id: str
    client_id: str
    client_secret: str
    def __init__(self, tenant_id: _Optional[str] = ..., client_id: _Optional[str] = ..., client_secret: _Optional[str] = ...) -> None: ...

class AzureManagedIdentityCredential(_message.Message):
    __slots__ = ("user_assigned_identity",)
    class UserAssignedIdentity(_message.Message):
        __slots__ = ("client_id", "object_id", "resource_id")
        CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
        OBJECT_ID_FIELD_NUMBER: _ClassVar[int]
        RESOURCE_ID_FIELD_NUMBER: _ClassVar[int]
        client_id: str
        object_id: str
        resource_id: str
        def __init__(self, client_id: _Optional[str] = ..., object_id: _Optional[str] = ..., resource_id: _Optional[str] = ...) -> None: ...
    USER_ASSIGNED_IDENTITY_FIELD_NUMBER: _ClassVar[int]
    user_assigned_identity: AzureManagedIdentityCredential.UserAssignedIdentity
    def __init__(self, user_assigned_identity: _Optional[_Union[AzureManagedIdentityCredential.UserAssignedIdentity, _Mapping]] = ...) -> None: ...

class AzureWorkloadIdentityCredential(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AzureDeveloperImplicit(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AzureImplicit(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RouteMatch(_message.Message):
    __slots__ = ("path", "headers", "method", "query_params")
    PATH_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    QUERY_PARAMS_FIELD_NUMBER: _ClassVar[int]
    path: PathMatch
    headers: _containers.RepeatedCompositeFieldContainer[HeaderMatch]
    method: MethodMatch
    query_params: _containers.RepeatedCompositeFieldContainer[QueryMatch]
    def __init__(self, path: _Optional[_Union[PathMatch, _Mapping]] = ..., headers: _Optional[_Iterable[_Union[HeaderMatch, _Mapping]]] = ..., method: _Optional[_Union[MethodMatch, _Mapping]] = ..., query_params: _Optional[_Iterable[_Union[QueryMatch, _Mapping]]] = ...) -> None: ...

class PathMatch(_message.Message):
    __slots__ = ("exact", "path_prefix", "regex")
    EXACT_FIELD_NUMBER: _ClassVar[int]
    PATH_PREFIX_FIELD_NUMBER: _ClassVar[int]
    REGEX_FIELD_NUMBER: _ClassVar[int]
    exact: str
    path_prefix: str
    regex: str
    def __init__(self, exact: _Optional[str] = ..., path_prefix: _Optional[str] = ..., regex: _Optional[str] = ...) -> None: ...

class QueryMatch(_message.Message):
    __slots__ = ("name", "exact", "regex")
    NAME_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    REGEX_FIELD_NUMBER: _ClassVar[int]
    name: str
    exact: str
    regex: str
    def __init__(self, name: _Optional[str] = ..., exact: _Optional[str] = ..., regex: _Optional[str] = ...) -> None: ...

class MethodMatch(_message.Message):
    __slots__ = ("exact",)
    EXACT_FIELD_NUMBER: _ClassVar[int]
    exact: str
    def __init__(self, exact: _Optional[str] = ...) -> None: ...

class HeaderMatch(_message.Message):
    __slots__ = ("name", "exact", "regex")
    NAME_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    REGEX_FIELD_NUMBER: _ClassVar[int]
    name: str
    exact: str
    regex: str
    def __init__(self, name: _Optional[str] = ..., exact: _Optional[str] = ..., regex: _Optional[str] = ...) -> None: ...

class CORS(_message.Message):
    __slots__ = ("allow_credentials", "allow_headers", "allow_methods", "allow_origins", "expose_headers", "max_age")
    ALLOW_CREDENTIALS_FIELD_NUMBER: _ClassVar[int]
    ALLOW_HEADERS_FIELD_NUMBER: _ClassVar[int]
    ALLOW_METHODS_FIELD_NUMBER: _ClassVar[int]
    ALLOW_ORIGINS_FIELD_NUMBER: _ClassVar[int]
    EXPOSE_HEADERS_FIELD_NUMBER: _ClassVar[int]
    MAX_AGE_FIELD_NUMBER: _ClassVar[int]
    allow_credentials: bool
    allow_headers: _containers.RepeatedScalarFieldContainer[str]
    allow_methods: _containers.RepeatedScalarFieldContainer[str]
    allow_origins: _containers.RepeatedScalarFieldContainer[str]
    expose_headers: _containers.RepeatedScalarFieldContainer[str]
    max_age: _duration_pb2.Duration
    def __init__(self, allow_credentials: _Optional[bool] = ..., allow_headers: _Optional[_Iterable[str]] = ..., allow_methods: _Optional[_Iterable[str]] = ..., allow_origins: _Optional[_Iterable[str]] = ..., expose_headers: _Optional[_Iterable[str]] = ..., max_age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class DirectResponse(_message.Message):
    __slots__ = ("status", "body", "body_expression", "headers")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    BODY_EXPRESSION_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    status: int
    body: bytes
    body_expression: str
    headers: _containers.RepeatedCompositeFieldContainer[ExpressionHeader]
    def __init__(self, status: _Optional[int] = ..., body: _Optional[bytes] = ..., body_expression: _Optional[str] = ..., headers: _Optional[_Iterable[_Union[ExpressionHeader, _Mapping]]] = ...) -> None: ...

class ExpressionHeader(_message.Message):
    __slots__ = ("name", "expression")
    NAME_FIELD_NUMBER: _ClassVar[int]
    EXPRESSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    expression: str
    def __init__(self, name: _Optional[str] = ..., expression: _Optional[str] = ...) -> None: ...

class HeaderModifier(_message.Message):
    __slots__ = ("add", "set", "remove")
    ADD_FIELD_NUMBER: _ClassVar[int]
    SET_FIELD_NUMBER: _ClassVar[int]
    REMOVE_FIELD_NUMBER: _ClassVar[int]
    add: _containers.RepeatedCompositeFieldContainer[Header]
    set: _containers.RepeatedCompositeFieldContainer[Header]
    remove: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, add: _Optional[_Iterable[_Union[Header, _Mapping]]] = ..., set: _Optional[_Iterable[_Union[Header, _Mapping]]] = ..., remove: _Optional[_Iterable[str]] = ...) -> None: ...

class RequestMirrors(_message.Message):
    __slots__ = ("mirrors",)
    class Mirror(_message.Message):
        __slots__ = ("backend", "percentage")
        BACKEND_FIELD_NUMBER: _ClassVar[int]
        PERCENTAGE_FIELD_NUMBER: _ClassVar[int]
        backend: BackendReference
        percentage: float
        def __init__(self, backend: _Optional[_Union[BackendReference, _Mapping]] = ..., percentage: _Optional[float] = ...) -> None: ...
    MIRRORS_FIELD_NUMBER: _ClassVar[int]
    mirrors: _containers.RepeatedCompositeFieldContainer[RequestMirrors.Mirror]
    def __init__(self, mirrors: _Optional[_Iterable[_Union[RequestMirrors.Mirror, _Mapping]]] = ...) -> None: ...

class RequestRedirect(_message.Message):
    __slots__ = ("scheme", "host", "port", "status", "full", "prefix")
    SCHEME_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    FULL_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    scheme: str
    host: str
    port: int
    status: int
    full: str
    prefix: str
    def __init__(self, scheme: _Optional[str] = ..., host: _Optional[str] = ..., port: _Optional[int] = ..., status: _Optional[int] = ..., full: _Optional[str] = ..., prefix: _Optional[str] = ...) -> None: ...

class UrlRewrite(_message.Message):
    __slots__ = ("host", "full", "prefix")
    HOST_FIELD_NUMBER: _ClassVar[int]
    FULL_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    host: str
    full: str
    prefix: str
    def __init__(self, host: _Optional[str] = ..., full: _Optional[str] = ..., prefix: _Optional[str] = ...) -> None: ...

class Header(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class RouteBackend(_message.Message):
    __slots__ = ("backend", "route_group_key", "weight", "backend_policies")
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    ROUTE_GROUP_KEY_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    BACKEND_POLICIES_FIELD_NUMBER: _ClassVar[int]
    backend: BackendReference
    route_group_key: str
    weight: int
    backend_policies: _containers.RepeatedCompositeFieldContainer[BackendPolicySpec]
    def __init__(self, backend: _Optional[_Union[BackendReference, _Mapping]] = ..., route_group_key: _Optional[str] = ..., weight: _Optional[int] = ..., backend_policies: _Optional[_Iterable[_Union[BackendPolicySpec, _Mapping]]] = ...) -> None: ...

class PolicyTarget(_message.Message):
    __slots__ = ("gateway", "route", "backend", "service", "listener_set")
    class ServiceTarget(_message.Message):
        __slots__ = ("namespace", "hostname", "port")
        NAMESPACE_FIELD_NUMBER: _ClassVar[int]
        HOSTNAME_FIELD_NUMBER: _ClassVar[int]
        PORT_FIELD_NUMBER: _ClassVar[int]
        namespace: str
        hostname: str
        port: int
        def __init__(self, namespace: _Optional[str] = ..., hostname: _Optional[str] = ..., port: _Optional[int] = ...) -> None: ...
    class BackendTarget(_message.Message):
        __slots__ = ("name", "namespace", "section")
        NAME_FIELD_NUMBER: _ClassVar[int]
        NAMESPACE_FIELD_NUMBER: _ClassVar[int]
        SECTION_FIELD_NUMBER: _ClassVar[int]
        name: str
        namespace: str
        section: str
        def __init__(self, name: _Optional[str] = ..., namespace: _Optional[str] = ..., section: _Optional[str] = ...) -> None: ...
    class GatewayTarget(_message.Message):
        __slots__ = ("name", "namespace", "listener", "port")
        NAME_FIELD_NUMBER: _ClassVar[int]
        NAMESPACE_FIELD_NUMBER: _ClassVar[int]
        LISTENER_FIELD_NUMBER: _ClassVar[int]
        PORT_FIELD_NUMBER: _ClassVar[int]
        name: str
        namespace: str
        listener: str
        port: int
        def __init__(self, name: _Optional[str] = ..., namespace: _Optional[str] = ..., listener: _Optional[str] = ..., port: _Optional[int] = ...) -> None: ...
    class RouteTarget(_message.Message):
        __slots__ = ("name", "namespace", "route_rule", "kind")
        NAME_FIELD_NUMBER: _ClassVar[int]
        NAMESPACE_FIELD_NUMBER: _ClassVar[int]
        ROUTE_RULE_FIELD_NUMBER: _ClassVar[int]
        KIND_FIELD_NUMBER: _ClassVar[int]
        name: str
        namespace: str
        route_rule: str
        kind: str
        def __init__(self, name: _Optional[str] = ..., namespace: _Optional[str] = ..., route_rule: _Optional[str] = ..., kind: _Optional[str] = ...) -> None: ...
    class ListenerSetTarget(_message.Message):
        __slots__ = ("name", "namespace", "section")
        NAME_FIELD_NUMBER: _ClassVar[int]
        NAMESPACE_FIELD_NUMBER: _ClassVar[int]
        SECTION_FIELD_NUMBER: _ClassVar[int]
        name: str
        namespace: str
        section: str
        def __init__(self, name: _Optional[str] = ..., namespace: _Optional[str] = ..., section: _Optional[str] = ...) -> None: ...
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    LISTENER_SET_FIELD_NUMBER: _ClassVar[int]
    gateway: PolicyTarget.GatewayTarget
    route: PolicyTarget.RouteTarget
    backend: PolicyTarget.BackendTarget
    service: PolicyTarget.ServiceTarget
    listener_set: PolicyTarget.ListenerSetTarget
    def __init__(self, gateway: _Optional[_Union[PolicyTarget.GatewayTarget, _Mapping]] = ..., route: _Optional[_Union[PolicyTarget.RouteTarget, _Mapping]] = ..., backend: _Optional[_Union[PolicyTarget.BackendTarget, _Mapping]] = ..., service: _Optional[_Union[PolicyTarget.ServiceTarget, _Mapping]] = ..., listener_set: _Optional[_Union[PolicyTarget.ListenerSetTarget, _Mapping]] = ...) -> None: ...

class KeepaliveConfig(_message.Message):
    __slots__ = ("time", "interval", "retries")
    TIME_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    RETRIES_FIELD_NUMBER: _ClassVar[int]
    time: _duration_pb2.Duration
    interval: _duration_pb2.Duration
    retries: int
    def __init__(self, time: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., retries: _Optional[int] = ...) -> None: ...

class FrontendPolicySpec(_message.Message):
    __slots__ = ("tcp", "tls", "http", "logging", "tracing", "network_authorization", "proxy_protocol", "metrics", "connect")
    class HTTP(_message.Message):
        __slots__ = ("max_buffer_size", "http1_max_headers", "http1_idle_timeout", "http2_window_size", "http2_connection_window_size", "http2_frame_size", "http2_keepalive_interval", "http2_keepalive_timeout", "max_connection_duration", "http2_max_header_size", "http1_header_case")
        class HTTPHeaderCase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            LOWERCASE: _ClassVar[FrontendPolicySpec.HTTP.HTTPHeaderCase]
            PRESERVE: _ClassVar[FrontendPolicySpec.HTTP.HTTPHeaderCase]
        LOWERCASE: FrontendPolicySpec.HTTP.HTTPHeaderCase
        PRESERVE: FrontendPolicySpec.HTTP.HTTPHeaderCase
        MAX_BUFFER_SIZE_FIELD_NUMBER: _ClassVar[int]
        HTTP1_MAX_HEADERS_FIELD_NUMBER: _ClassVar[int]
        HTTP1_IDLE_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
        HTTP2_WINDOW_SIZE_FIELD_NUMBER: _ClassVar[int]
        HTTP2_CONNECTION_WINDOW_SIZE_FIELD_NUMBER: _ClassVar[int]
        HTTP2_FRAME_SIZE_FIELD_NUMBER: _ClassVar[int]
        HTTP2_KEEPALIVE_INTERVAL_FIELD_NUMBER: _ClassVar[int]
        HTTP2_KEEPALIVE_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
        MAX_CONNECTION_DURATION_FIELD_NUMBER: _ClassVar[int]
        HTTP2_MAX_HEADER_SIZE_FIELD_NUMBER: _ClassVar[int]
        HTTP1_HEADER_CASE_FIELD_NUMBER: _ClassVar[int]
        max_buffer_size: int
        http1_max_headers: int
        http1_idle_timeout: _duration_pb2.Duration
        http2_window_size: int
        http2_connection_window_size: int
        http2_frame_size: int
        http2_keepalive_interval: _duration_pb2.Duration
        http2_keepalive_timeout: _duration_pb2.Duration
        max_connection_duration: _duration_pb2.Duration
        http2_max_header_size: int
        http1_header_case: FrontendPolicySpec.HTTP.HTTPHeaderCase
        def __init__(self, max_buffer_size: _Optional[int] = ..., http1_max_headers: _Optional[int] = ..., http1_idle_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., http2_window_size: _Optional[int] = ..., http2_connection_window_size: _Optional[int] = ..., http2_frame_size: _Optional[int] = ..., http2_keepalive_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., http2_keepalive_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_connection_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., http2_max_header_size: _Optional[int] = ..., http1_header_case: _Optional[_Union[FrontendPolicySpec.HTTP.HTTPHeaderCase, str]] = ...) -> None: ...
    class TLS(_message.Message):
        __slots__ = ("handshake_timeout", "alpn", "cipher_suites", "min_version", "max_version", "key_exchange_groups")
        HANDSHAKE_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
        ALPN_FIELD_NUMBER: _ClassVar[int]
        CIPHER_SUITES_FIELD_NUMBER: _ClassVar[int]
        MIN_VERSION_FIELD_NUMBER: _ClassVar[int]
        MAX_VERSION_FIELD_NUMBER: _ClassVar[int]
        KEY_EXCHANGE_GROUPS_FIELD_NUMBER: _ClassVar[int]
        handshake_timeout: _duration_pb2.Duration
        alpn: Alpn
        cipher_suites: _containers.RepeatedScalarFieldContainer[TLSConfig.CipherSuite]
        min_version: TLSConfig.TLSVersion
        max_version: TLSConfig.TLSVersion
        key_exchange_groups: _containers.RepeatedScalarFieldContainer[TLSConfig.KeyExchangeGroup]
        def __init__(self, handshake_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., alpn: _Optional[_Union[Alpn, _Mapping]] = ..., cipher_suites: _Optional[_Iterable[_Union[TLSConfig.CipherSuite, str]]] = ..., min_version: _Optional[_Union[TLSConfig.TLSVersion, str]] = ..., max_version: _Optional[_Union[TLSConfig.TLSVersion, str]] = ..., key_exchange_groups: _Optional[_Iterable[_Union[TLSConfig.KeyExchangeGroup, str]]] = ...) -> None: ...
    class TCP(_message.Message):
        __slots__ = ("keepalives",)
        KEEPALIVES_FIELD_NUMBER: _ClassVar[int]
        keepalives: KeepaliveConfig
        def __init__(self, keepalives: _Optional[_Union[KeepaliveConfig, _Mapping]] = ...) -> None: ...
    class NetworkAuthorization(_message.Message):
        __slots__ = ("allow", "deny", "require")
        ALLOW_FIELD_NUMBER: _ClassVar[int]
        DENY_FIELD_NUMBER: _ClassVar[int]
        REQUIRE_FIELD_NUMBER: _ClassVar[int]
        allow: _containers.RepeatedScalarFieldContainer[str]
        deny: _containers.RepeatedScalarFieldContainer[str]
        require: _containers.RepeatedScalarFieldContainer[str]
        def __init__(self, allow: _Optional[_Iterable[str]] = ..., deny: _Optional[_Iterable[str]] = ..., require: _Optional[_Iterable[str]] = ...) -> None: ...
    class Logging(_message.Message):
        __slots__ = ("filter", "fields", "otlp_access_log")
        class Field(_message.Message):
            __slots__ = ("name", "expression")
            NAME_FIELD_NUMBER: _ClassVar[int]
            EXPRESSION_FIELD_NUMBER: _ClassVar[int]
            name: str
            expression: str
            def __init__(self, name: _Optional[str] = ..., expression: _Optional[str] = ...) -> None: ...
        class Fields(_message.Message):
            __slots__ = ("remove", "add")
            REMOVE_FIELD_NUMBER: _ClassVar[int]
            ADD_FIELD_NUMBER: _ClassVar[int]
            remove: _containers.RepeatedScalarFieldContainer[str]
            add: _containers.RepeatedCompositeFieldContainer[FrontendPolicySpec.Logging.Field]
            def __init__(self, remove: _Optional[_Iterable[str]] = ..., add: _Optional[_Iterable[_Union[FrontendPolicySpec.Logging.Field, _Mapping]]] = ...) -> None: ...
        class OtlpAccessLog(_message.Message):
            __slots__ = ("provider_backend", "inline_policies", "protocol", "path", "filter", "fields")
            class Protocol(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
                __slots__ = ()
                HTTP: _ClassVar[FrontendPolicySpec.Logging.OtlpAccessLog.Protocol]
                GRPC: _ClassVar[FrontendPolicySpec.Logging.OtlpAccessLog.Protocol]
            HTTP: FrontendPolicySpec.Logging.OtlpAccessLog.Protocol
            GRPC: FrontendPolicySpec.Logging.OtlpAccessLog.Protocol
            PROVIDER_BACKEND_FIELD_NUMBER: _ClassVar[int]
            INLINE_POLICIES_FIELD_NUMBER: _ClassVar[int]
            PROTOCOL_FIELD_NUMBER: _ClassVar[int]
            PATH_FIELD_NUMBER: _ClassVar[int]
            FILTER_FIELD_NUMBER: _ClassVar[int]
            FIELDS_FIELD_NUMBER: _ClassVar[int]
            provider_backend: BackendReference
            inline_policies: _containers.RepeatedCompositeFieldContainer[BackendPolicySpec]
            protocol: FrontendPolicySpec.Logging.OtlpAccessLog.Protocol
            path: str
            filter: str
            fields: FrontendPolicySpec.Logging.Fields
            def __init__(self, provider_backend: _Optional[_Union[BackendReference, _Mapping]] = ..., inline_policies: _Optional[_Iterable[_Union[BackendPolicySpec, _Mapping]]] = ..., protocol: _Optional[_Union[FrontendPolicySpec.Logging.OtlpAccessLog.Protocol, str]] = ..., path: _Optional[str] = ..., filter: _Optional[str] = ..., fields: _Optional[_Union[FrontendPolicySpec.Logging.Fields, _Mapping]] = ...) -> None: ...
        FILTER_FIELD_NUMBER: _ClassVar[int]
        FIELDS_FIELD_NUMBER: _ClassVar[int]
        OTLP_ACCESS_LOG_FIELD_NUMBER: _ClassVar[int]
        filter: str
        fields: FrontendPolicySpec.Logging.Fields
        otlp_access_log: FrontendPolicySpec.Logging.OtlpAccessLog
        def __init__(self, filter: _Optional[str] = ..., fields: _Optional[_Union[FrontendPolicySpec.Logging.Fields, _Mapping]] = ..., otlp_access_log: _Optional[_Union[FrontendPolicySpec.Logging.OtlpAccessLog, _Mapping]] = ...) -> None: ...
    class Tracing(_message.Message):
        __slots__ = ("provider_backend", "attributes", "resources", "inline_policies", "remove", "random_sampling", "client_sampling", "path", "protocol", "filter")
        class Protocol(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            HTTP: _ClassVar[FrontendPolicySpec.Tracing.Protocol]
            GRPC: _ClassVar[FrontendPolicySpec.Tracing.Protocol]
        HTTP: FrontendPolicySpec.Tracing.Protocol
        GRPC: FrontendPolicySpec.Tracing.Protocol
        PROVIDER_BACKEND_FIELD_NUMBER: _ClassVar[int]
        ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
        RESOURCES_FIELD_NUMBER: _ClassVar[int]
        INLINE_POLICIES_FIELD_NUMBER: _ClassVar[int]
        REMOVE_FIELD_NUMBER: _ClassVar[int]
        RANDOM_SAMPLING_FIELD_NUMBER: _ClassVar[int]
        CLIENT_SAMPLING_FIELD_NUMBER: _ClassVar[int]
        PATH_FIELD_NUMBER: _ClassVar[int]
        PROTOCOL_FIELD_NUMBER: _ClassVar[int]
        FILTER_FIELD_NUMBER: _ClassVar[int]
        provider_backend: BackendReference
        attributes: _containers.RepeatedCompositeFieldContainer[FrontendPolicySpec.TracingAttribute]
        resources: _containers.RepeatedCompositeFieldContainer[FrontendPolicySpec.TracingAttribute]
        inline_policies: _containers.RepeatedCompositeFieldContainer[BackendPolicySpec]
        remove: _containers.RepeatedScalarFieldContainer[str]
        random_sampling: str
        client_sampling: str
        path: str
        protocol: FrontendPolicySpec.Tracing.Protocol
        filter: str
        def __init__(self, provider_backend: _Optional[_Union[BackendReference, _Mapping]] = ..., attributes: _Optional[_Iterable[_Union[FrontendPolicySpec.TracingAttribute, _Mapping]]] = ..., resources: _Optional[_Iterable[_Union[FrontendPolicySpec.TracingAttribute, _Mapping]]] = ..., inline_policies: _Optional[_Iterable[_Union[BackendPolicySpec, _Mapping]]] = ..., remove: _Optional[_Iterable[str]] = ..., random_sampling: _Optional[str] = ..., client_sampling: _Optional[str] = ..., path: _Optional[str] = ..., protocol: _Optional[_Union[FrontendPolicySpec.Tracing.Protocol, str]] = ..., filter: _Optional[str] = ...) -> None: ...
    class TracingAttribute(_message.Message):
        __slots__ = ("name", "value")
        NAME_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        name: str
        value: str
        def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class ProxyProtocol(_message.Message):
        __slots__ = ("version", "mode")
        class Version(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            V2: _ClassVar[FrontendPolicySpec.ProxyProtocol.Version]
            V1: _ClassVar[FrontendPolicySpec.ProxyProtocol.Version]
            ALL: _ClassVar[FrontendPolicySpec.ProxyProtocol.Version]
        V2: FrontendPolicySpec.ProxyProtocol.Version
        V1: FrontendPolicySpec.ProxyProtocol.Version
        ALL: FrontendPolicySpec.ProxyProtocol.Version
        class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            STRICT: _ClassVar[FrontendPolicySpec.ProxyProtocol.Mode]
            OPTIONAL: _ClassVar[FrontendPolicySpec.ProxyProtocol.Mode]
        STRICT: FrontendPolicySpec.ProxyProtocol.Mode
        OPTIONAL: FrontendPolicySpec.ProxyProtocol.Mode
        VERSION_FIELD_NUMBER: _ClassVar[int]
        MODE_FIELD_NUMBER: _ClassVar[int]
        version: FrontendPolicySpec.ProxyProtocol.Version
        mode: FrontendPolicySpec.ProxyProtocol.Mode
        def __init__(self, version: _Optional[_Union[FrontendPolicySpec.ProxyProtocol.Version, str]] = ..., mode: _Optional[_Union[FrontendPolicySpec.ProxyProtocol.Mode, str]] = ...) -> None: ...
    class Connect(_message.Message):
        __slots__ = ("mode",)
        class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            DENY: _ClassVar[FrontendPolicySpec.Connect.Mode]
            ROUTE: _ClassVar[FrontendPolicySpec.Connect.Mode]
            TUNNEL: _ClassVar[FrontendPolicySpec.Connect.Mode]
        DENY: FrontendPolicySpec.Connect.Mode
        ROUTE: FrontendPolicySpec.Connect.Mode
        TUNNEL: FrontendPolicySpec.Connect.Mode
        MODE_FIELD_NUMBER: _ClassVar[int]
        mode: FrontendPolicySpec.Connect.Mode
        def __init__(self, mode: _Optional[_Union[FrontendPolicySpec.Connect.Mode, str]] = ...) -> None: ...
    class Metrics(_message.Message):
        __slots__ = ("fields",)
        class Field(_message.Message):
            __slots__ = ("name", "expression")
            NAME_FIELD_NUMBER: _ClassVar[int]
            EXPRESSION_FIELD_NUMBER: _ClassVar[int]
            name: str
            expression: str
            def __init__(self, name: _Optional[str] = ..., expression: _Optional[str] = ...) -> None: ...
        class Fields(_message.Message):
            __slots__ = ("add",)
            ADD_FIELD_NUMBER: _ClassVar[int]
            add: _containers.RepeatedCompositeFieldContainer[FrontendPolicySpec.Metrics.Field]
            def __init__(self, add: _Optional[_Iterable[_Union[FrontendPolicySpec.Metrics.Field, _Mapping]]] = ...) -> None: ...
        FIELDS_FIELD_NUMBER: _ClassVar[int]
        fields: FrontendPolicySpec.Metrics.Fields
        def __init__(self, fields: _Optional[_Union[FrontendPolicySpec.Metrics.Fields, _Mapping]] = ...) -> None: ...
    TCP_FIELD_NUMBER: _ClassVar[int]
    TLS_FIELD_NUMBER: _ClassVar[int]
    HTTP_FIELD_NUMBER: _ClassVar[int]
    LOGGING_FIELD_NUMBER: _ClassVar[int]
    TRACING_FIELD_NUMBER: _ClassVar[int]
    NETWORK_AUTHORIZATION_FIELD_NUMBER: _ClassVar[int]
    PROXY_PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    CONNECT_FIELD_NUMBER: _ClassVar[int]
    tcp: FrontendPolicySpec.TCP
    tls: FrontendPolicySpec.TLS
    http: FrontendPolicySpec.HTTP
    logging: FrontendPolicySpec.Logging
    tracing: FrontendPolicySpec.Tracing
    network_authorization: FrontendPolicySpec.NetworkAuthorization
    proxy_protocol: FrontendPolicySpec.ProxyProtocol
    metrics: FrontendPolicySpec.Metrics
    connect: FrontendPolicySpec.Connect
    def __init__(self, tcp: _Optional[_Union[FrontendPolicySpec.TCP, _Mapping]] = ..., tls: _Optional[_Union[FrontendPolicySpec.TLS, _Mapping]] = ..., http: _Optional[_Union[FrontendPolicySpec.HTTP, _Mapping]] = ..., logging: _Optional[_Union[FrontendPolicySpec.Logging, _Mapping]] = ..., tracing: _Optional[_Union[FrontendPolicySpec.Tracing, _Mapping]] = ..., network_authorization: _Optional[_Union[FrontendPolicySpec.NetworkAuthorization, _Mapping]] = ..., proxy_protocol: _Optional[_Union[FrontendPolicySpec.ProxyProtocol, _Mapping]] = ..., metrics: _Optional[_Union[FrontendPolicySpec.Metrics, _Mapping]] = ..., connect: _Optional[_Union[FrontendPolicySpec.Connect, _Mapping]] = ...) -> None: ...

class JWTValidationOptions(_message.Message):
    __slots__ = ("required_claims",)
    REQUIRED_CLAIMS_FIELD_NUMBER: _ClassVar[int]
    required_claims: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, required_claims: _Optional[_Iterable[str]] = ...) -> None: ...

class TrafficPolicySpec(_message.Message):
    __slots__ = ("phase", "timeout", "retry", "local_rate_limit", "ext_authz", "authorization", "jwt", "transformation", "remote_rate_limit", "csrf", "ext_proc", "request_header_modifier", "response_header_modifier", "request_redirect", "url_rewrite", "request_mirror", "direct_response", "cors", "basic_auth", "api_key_auth", "host_rewrite", "buffer", "delay")
    class PolicyPhase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ROUTE: _ClassVar[TrafficPolicySpec.PolicyPhase]
        GATEWAY: _ClassVar[TrafficPolicySpec.PolicyPhase]
    ROUTE: TrafficPolicySpec.PolicyPhase
    GATEWAY: TrafficPolicySpec.PolicyPhase
    class RemoteRateLimit(_message.Message):
        __slots__ = ("domain", "descriptors", "target", "failure_mode", "inline_policies")
        class Type(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            REQUESTS: _ClassVar[TrafficPolicySpec.RemoteRateLimit.Type]
            TOKENS: _ClassVar[TrafficPolicySpec.RemoteRateLimit.Type]
        REQUESTS: TrafficPolicySpec.RemoteRateLimit.Type
        TOKENS: TrafficPolicySpec.RemoteRateLimit.Type
        class FailureMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            FAIL_CLOSED: _ClassVar[TrafficPolicySpec.RemoteRateLimit.FailureMode]
            FAIL_OPEN: _ClassVar[TrafficPolicySpec.RemoteRateLimit.FailureMode]
        FAIL_CLOSED: TrafficPolicySpec.RemoteRateLimit.FailureMode
        FAIL_OPEN: TrafficPolicySpec.RemoteRateLimit.FailureMode
        class Descriptor(_message.Message):
            __slots__ = ("entries", "type", "limit_override", "cost")
            ENTRIES_FIELD_NUMBER: _ClassVar[int]
            TYPE_FIELD_NUMBER: _ClassVar[int]
            LIMIT_OVERRIDE_FIELD_NUMBER: _ClassVar[int]
            COST_FIELD_NUMBER: _ClassVar[int]
            entries: _containers.RepeatedCompositeFieldContainer[TrafficPolicySpec.RemoteRateLimit.Entry]
            type: TrafficPolicySpec.RemoteRateLimit.Type
            limit_override: str
            cost: str
            def __init__(self, entries: _Optional[_Iterable[_Union[TrafficPolicySpec.RemoteRateLimit.Entry, _Mapping]]] = ..., type: _Optional[_Union[TrafficPolicySpec.RemoteRateLimit.Type, str]] = ..., limit_override: _Optional[str] = ..., cost: _Optional[str] = ...) -> None: ...
        class Entry(_message.Message):
            __slots__ = ("key", "value")
            KEY_FIELD_NUMBER: _ClassVar[int]
            VALUE_FIELD_NUMBER: _ClassVar[int]
            key: str
            value: str
            def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
        DOMAIN_FIELD_NUMBER: _ClassVar[int]
        DESCRIPTORS_FIELD_NUMBER: _ClassVar[int]
        TARGET_FIELD_NUMBER: _ClassVar[int]
        FAILURE_MODE_FIELD_NUMBER: _ClassVar[int]
        INLINE_POLICIES_FIELD_NUMBER: _ClassVar[int]
        domain: str
        descriptors: _containers.RepeatedCompositeFieldContainer[TrafficPolicySpec.RemoteRateLimit.Descriptor]
        target: BackendReference
        failure_mode: TrafficPolicySpec.RemoteRateLimit.FailureMode
        inline_policies: _containers.RepeatedCompositeFieldContainer[BackendPolicySpec]
        def __init__(self, domain: _Optional[str] = ..., descriptors: _Optional[_Iterable[_Union[TrafficPolicySpec.RemoteRateLimit.Descriptor, _Mapping]]] = ..., target: _Optional[_Union[BackendReference, _Mapping]] = ..., failure_mode: _Optional[_Union[TrafficPolicySpec.RemoteRateLimit.FailureMode, str]] = ..., inline_policies: _Optional[_Iterable[_Union[BackendPolicySpec, _Mapping]]] = ...) -> None: ...
    class LocalRateLimit(_message.Message):
        __slots__ = ("max_tokens", "tokens_per_fill", "fill_interval", "type", "rules")
        class Type(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            REQUEST: _ClassVar[TrafficPolicySpec.LocalRateLimit.Type]
            TOKEN: _ClassVar[TrafficPolicySpec.LocalRateLimit.Type]
        REQUEST: TrafficPolicySpec.LocalRateLimit.Type
        TOKEN: TrafficPolicySpec.LocalRateLimit.Type
        class Rule(_message.Message):
            __slots__ = ("max_tokens", "tokens_per_fill", "fill_interval", "type")
            MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
            TOKENS_PER_FILL_FIELD_NUMBER: _ClassVar[int]
            FILL_INTERVAL_FIELD_NUMBER: _ClassVar[int]
            TYPE_FIELD_NUMBER: _ClassVar[int]
            max_tokens: int
            tokens_per_fill: int
            fill_interval: _duration_pb2.Duration
            type: TrafficPolicySpec.LocalRateLimit.Type
            def __init__(self, max_tokens: _Optional[int] = ..., tokens_per_fill: _Optional[int] = ..., fill_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., type: _Optional[_Union[TrafficPolicySpec.LocalRateLimit.Type, str]] = ...) -> None: ...
        MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
        TOKENS_PER_FILL_FIELD_NUMBER: _ClassVar[int]
        FILL_INTERVAL_FIELD_NUMBER: _ClassVar[int]
        TYPE_FIELD_NUMBER: _ClassVar[int]
        RULES_FIELD_NUMBER: _ClassVar[int]
        max_tokens: int
        tokens_per_fill: int
        fill_interval: _duration_pb2.Duration
        type: TrafficPolicySpec.LocalRateLimit.Type
        rules: _containers.RepeatedCompositeFieldContainer[TrafficPolicySpec.LocalRateLimit.Rule]
        def __init__(self, max_tokens: _Optional[int] = ..., tokens_per_fill: _Optional[int] = ..., fill_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., type: _Optional[_Union[TrafficPolicySpec.LocalRateLimit.Type, str]] = ..., rules: _Optional[_Iterable[_Union[TrafficPolicySpec.LocalRateLimit.Rule, _Mapping]]] = ...) -> None: ...
    class ExternalAuth(_message.Message):
        __slots__ = ("target", "failure_mode", "status_on_error", "include_request_headers", "include_request_body", "cache", "inline_policies", "grpc", "http")
        class FailureMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            DENY: _ClassVar[TrafficPolicySpec.ExternalAuth.FailureMode]
            ALLOW: _ClassVar[TrafficPolicySpec.ExternalAuth.FailureMode]
            DENY_WITH_STATUS: _ClassVar[TrafficPolicySpec.ExternalAuth.FailureMode]
        DENY: TrafficPolicySpec.ExternalAuth.FailureMode
        ALLOW: TrafficPolicySpec.ExternalAuth.FailureMode
        DENY_WITH_STATUS: TrafficPolicySpec.ExternalAuth.FailureMode
        class BodyOptions(_message.Message):
            __slots__ = ("max_request_bytes", "allow_partial_message", "pack_as_bytes")
            MAX_REQUEST_BYTES_FIELD_NUMBER: _ClassVar[int]
            ALLOW_PARTIAL_MESSAGE_FIELD_NUMBER: _ClassVar[int]
            PACK_AS_BYTES_FIELD_NUMBER: _ClassVar[int]
            max_request_bytes: int
            allow_partial_message: bool
            pack_as_bytes: bool
            def __init__(self, max_request_bytes: _Optional[int] = ..., allow_partial_message: _Optional[bool] = ..., pack_as_bytes: _Optional[bool] = ...) -> None: ...
        class Cache(_message.Message):
            __slots__ = ("key", "ttl", "max_entries")
            KEY_FIELD_NUMBER: _ClassVar[int]
            TTL_FIELD_NUMBER: _ClassVar[int]
            MAX_ENTRIES_FIELD_NUMBER: _ClassVar[int]
            key: _containers.RepeatedScalarFieldContainer[str]
            ttl: str
            max_entries: int
            def __init__(self, key: _Optional[_Iterable[str]] = ..., ttl: _Optional[str] = ..., max_entries: _Optional[int] = ...) -> None: ...
        class GRPCProtocol(_message.Message):
            __slots__ = ("context", "metadata")
            class ContextEntry(_message.Message):
                __slots__ = ("key", "value")
                KEY_FIELD_NUMBER: _ClassVar[int]
                VALUE_FIELD_NUMBER: _ClassVar[int]
                key: str
                value: str
                def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
            class MetadataEntry(_message.Message):
                __slots__ = ("key", "value")
                KEY_FIELD_NUMBER: _ClassVar[int]
                VALUE_FIELD_NUMBER: _ClassVar[int]
                key: str
                value: str
                def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
            CONTEXT_FIELD_NUMBER: _ClassVar[int]
            METADATA_FIELD_NUMBER: _ClassVar[int]
            context: _containers.ScalarMap[str, str]
            metadata: _containers.ScalarMap[str, str]
            def __init__(self, context: _Optional[_Mapping[str, str]] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...
        class HTTPProtocol(_message.Message):
            __slots__ = ("path", "redirect", "include_response_headers", "add_request_headers", "metadata", "body")
            class AddRequestHeadersEntry(_message.Message):
                __slots__ = ("key", "value")
                KEY_FIELD_NUMBER: _ClassVar[int]
                VALUE_FIELD_NUMBER: _ClassVar[int]
                key: str
                value: str
                def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
            class MetadataEntry(_message.Message):
                __slots__ = ("key", "value")
                KEY_FIELD_NUMBER: _ClassVar[int]
                VALUE_FIELD_NUMBER: _ClassVar[int]
                key: str
                value: str
                def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
            PATH_FIELD_NUMBER: _ClassVar[int]
            REDIRECT_FIELD_NUMBER: _ClassVar[int]
            INCLUDE_RESPONSE_HEADERS_FIELD_NUMBER: _ClassVar[int]
            ADD_REQUEST_HEADERS_FIELD_NUMBER: _ClassVar[int]
            METADATA_FIELD_NUMBER: _ClassVar[int]
            BODY_FIELD_NUMBER: _ClassVar[int]
            path: str
            redirect: str
            include_response_headers: _containers.RepeatedScalarFieldContainer[str]
            add_request_headers: _containers.ScalarMap[str, str]
            metadata: _containers.ScalarMap[str, str]
            body: str
            def __init__(self, path: _Optional[str] = ..., redirect: _Optional[str] = ..., include_response_headers: _Optional[_Iterable[str]] = ..., add_request_headers: _Optional[_Mapping[str, str]] = ..., metadata: _Optional[_Mapping[str, str]] = ..., body: _Optional[str] = ...) -> None: ...
        TARGET_FIELD_NUMBER: _ClassVar[int]
        FAILURE_MODE_FIELD_NUMBER: _ClassVar[int]
        STATUS_ON_ERROR_FIELD_NUMBER: _ClassVar[int]
        INCLUDE_REQUEST_HEADERS_FIELD_NUMBER: _ClassVar[int]
        INCLUDE_REQUEST_BODY_FIELD_NUMBER: _ClassVar[int]
        CACHE_FIELD_NUMBER: _ClassVar[int]
        INLINE_POLICIES_FIELD_NUMBER: _ClassVar[int]
        GRPC_FIELD_NUMBER: _ClassVar[int]
        HTTP_FIELD_NUMBER: _ClassVar[int]
        target: BackendReference
        failure_mode: TrafficPolicySpec.ExternalAuth.FailureMode
        status_on_error: int
        include_request_headers: _containers.RepeatedScalarFieldContainer[str]
        include_request_body: TrafficPolicySpec.ExternalAuth.BodyOptions
        cache: TrafficPolicySpec.ExternalAuth.Cache
        inline_policies: _containers.RepeatedCompositeFieldContainer[BackendPolicySpec]
        grpc: TrafficPolicySpec.ExternalAuth.GRPCProtocol
        http: TrafficPolicySpec.ExternalAuth.HTTPProtocol
        def __init__(self, target: _Optional[_Union[BackendReference, _Mapping]] = ..., failure_mode: _Optional[_Union[TrafficPolicySpec.ExternalAuth.FailureMode, str]] = ..., status_on_error: _Optional[int] = ..., include_request_headers: _Optional[_Iterable[str]] = ..., include_request_body: _Optional[_Union[TrafficPolicySpec.ExternalAuth.BodyOptions, _Mapping]] = ..., cache: _Optional[_Union[TrafficPolicySpec.ExternalAuth.Cache, _Mapping]] = ..., inline_policies: _Optional[_Iterable[_Union[BackendPolicySpec, _Mapping]]] = ..., grpc: _Optional[_Union[TrafficPolicySpec.ExternalAuth.GRPCProtocol, _Mapping]] = ..., http: _Optional[_Union[TrafficPolicySpec.ExternalAuth.HTTPProtocol, _Mapping]] = ...) -> None: ...
    class RBAC(_message.Message):
        __slots__ = ("allow", "deny", "require")
        ALLOW_FIELD_NUMBER: _ClassVar[int]
        DENY_FIELD_NUMBER: _ClassVar[int]
        REQUIRE_FIELD_NUMBER: _ClassVar[int]
        allow: _containers.RepeatedScalarFieldContainer[str]
        deny: _containers.RepeatedScalarFieldContainer[str]
        require: _containers.RepeatedScalarFieldContainer[str]
        def __init__(self, allow: _Optional[_Iterable[str]] = ..., deny: _Optional[_Iterable[str]] = ..., require: _Optional[_Iterable[str]] = ...) -> None: ...
    class JWTProvider(_message.Message):
        __slots__ = ("issuer", "audiences", "jwt_validation_options", "inline")
        ISSUER_FIELD_NUMBER: _ClassVar[int]
        AUDIENCES_FIELD_NUMBER: _ClassVar[int]
        JWT_VALIDATION_OPTIONS_FIELD_NUMBER: _ClassVar[int]
        INLINE_FIELD_NUMBER: _ClassVar[int]
        issuer: str
        audiences: _containers.RepeatedScalarFieldContainer[str]
        jwt_validation_options: JWTValidationOptions
        inline: str
        def __init__(self, issuer: _Optional[str] = ..., audiences: _Optional[_Iterable[str]] = ..., jwt_validation_options: _Optional[_Union[JWTValidationOptions, _Mapping]] = ..., inline: _Optional[str] = ...) -> None: ...
    class JWT(_message.Message):
        __slots__ = ("mode", "providers", "mcp", "authorization_location")
        class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            OPTIONAL: _ClassVar[TrafficPolicySpec.JWT.Mode]
            STRICT: _ClassVar[TrafficPolicySpec.JWT.Mode]
            PERMISSIVE: _ClassVar[TrafficPolicySpec.JWT.Mode]
        OPTIONAL: TrafficPolicySpec.JWT.Mode
        STRICT: TrafficPolicySpec.JWT.Mode
        PERMISSIVE: TrafficPolicySpec.JWT.Mode
        class MCP(_message.Message):
            __slots__ = ("provider", "resource_metadata", "client_id", "client_secret")
            PROVIDER_FIELD_NUMBER: _ClassVar[int]
            RESOURCE_METADATA_FIELD_NUMBER: _ClassVar[int]
            CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
            CLIENT_SECRET_FIELD_NUMBER: _ClassVar[int]
            provider: BackendPolicySpec.McpAuthentication.McpIDP
            resource_metadata: BackendPolicySpec.McpAuthentication.ResourceMetadata
            client_id: str
            client_secret: str
            def __init__(self, provider: _Optional[_Union[BackendPolicySpec.McpAuthentication.McpIDP, str]] = ..., resource_metadata: _Optional[_Union[BackendPolicySpec.McpAuthentication.ResourceMetadata, _Mapping]] = ..., client_id: _Optional[str] = ..., client_secret: _Optional[str] = ...) -> None: ...
        MODE_FIELD_NUMBER: _ClassVar[int]
        PROVIDERS_FIELD_NUMBER: _ClassVar[int]
        MCP_FIELD_NUMBER: _ClassVar[int]
        AUTHORIZATION_LOCATION_FIELD_NUMBER: _ClassVar[int]
        mode: TrafficPolicySpec.JWT.Mode
        providers: _containers.RepeatedCompositeFieldContainer[TrafficPolicySpec.JWTProvider]
        mcp: TrafficPolicySpec.JWT.MCP
        authorization_location: AuthorizationLocation
        def __init__(self, mode: _Optional[_Union[TrafficPolicySpec.JWT.Mode, str]] = ..., providers: _Optional[_Iterable[_Union[TrafficPolicySpec.JWTProvider, _Mapping]]] = ..., mcp: _Optional[_Union[TrafficPolicySpec.JWT.MCP, _Mapping]] = ..., authorization_location: _Optional[_Union[AuthorizationLocation, _Mapping]] = ...) -> None: ...
    class BasicAuthentication(_message.Message):
        __slots__ = ("htpasswd_content", "realm", "mode", "authorization_location")
        class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            STRICT: _ClassVar[TrafficPolicySpec.BasicAuthentication.Mode]
            OPTIONAL: _ClassVar[TrafficPolicySpec.BasicAuthentication.Mode]
        STRICT: TrafficPolicySpec.BasicAuthentication.Mode
        OPTIONAL: TrafficPolicySpec.BasicAuthentication.Mode
        HTPASSWD_CONTENT_FIELD_NUMBER: _ClassVar[int]
        REALM_FIELD_NUMBER: _ClassVar[int]
        MODE_FIELD_NUMBER: _ClassVar[int]
        AUTHORIZATION_LOCATION_FIELD_NUMBER: _ClassVar[int]
        htpasswd_content: str
        realm: str
        mode: TrafficPolicySpec.BasicAuthentication.Mode
        authorization_location: AuthorizationLocation
        def __init__(self, htpasswd_content: _Optional[str] = ..., realm: _Optional[str] = ..., mode: _Optional[_Union[TrafficPolicySpec.BasicAuthentication.Mode, str]] = ..., authorization_location: _Optional[_Union[AuthorizationLocation, _Mapping]] = ...) -> None: ...
    class APIKey(_message.Message):
        __slots__ = ("api_keys", "mode", "authorization_location")
        class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            STRICT: _ClassVar[TrafficPolicySpec.APIKey.Mode]
            OPTIONAL: _ClassVar[TrafficPolicySpec.APIKey.Mode]
            PERMISSIVE: _ClassVar[TrafficPolicySpec.APIKey.Mode]
        STRICT: TrafficPolicySpec.APIKey.Mode
        OPTIONAL: TrafficPolicySpec.APIKey.Mode
        PERMISSIVE: TrafficPolicySpec.APIKey.Mode
        class User(_message.Message):
            __slots__ = ("key", "metadata", "key_hash")
            KEY_FIELD_NUMBER: _ClassVar[int]
            METADATA_FIELD_NUMBER: _ClassVar[int]
            KEY_HASH_FIELD_NUMBER: _ClassVar[int]
            key: str
            metadata: _struct_pb2.Struct
            key_hash: str
            def __init__(self, key: _Optional[str] = ..., metadata: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., key_hash: _Optional[str] = ...) -> None: ...
        API_KEYS_FIELD_NUMBER: _ClassVar[int]
        MODE_FIELD_NUMBER: _ClassVar[int]
        AUTHORIZATION_LOCATION_FIELD_NUMBER: _ClassVar[int]
        api_keys: _containers.RepeatedCompositeFieldContainer[TrafficPolicySpec.APIKey.User]
        mode: TrafficPolicySpec.APIKey.Mode
        authorization_location: AuthorizationLocation
        def __init__(self, api_keys: _Optional[_Iterable[_Union[TrafficPolicySpec.APIKey.User, _Mapping]]] = ..., mode: _Optional[_Union[TrafficPolicySpec.APIKey.Mode, str]] = ..., authorization_location: _Optional[_Union[AuthorizationLocation, _Mapping]] = ...) -> None: ...
    class TransformationPolicy(_message.Message):
        __slots__ = ("request", "response")
        class Transform(_message.Message):
            __slots__ = ("set", "add", "remove", "body", "metadata")
            class MetadataEntry(_message.Message):
                __slots__ = ("key", "value")
                KEY_FIELD_NUMBER: _ClassVar[int]
                VALUE_FIELD_NUMBER: _ClassVar[int]
                key: str
                value: str
                def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
            SET_FIELD_NUMBER: _ClassVar[int]
            ADD_FIELD_NUMBER: _ClassVar[int]
            REMOVE_FIELD_NUMBER: _ClassVar[int]
            BODY_FIELD_NUMBER: _ClassVar[int]
            METADATA_FIELD_NUMBER: _ClassVar[int]
            set: _containers.RepeatedCompositeFieldContainer[TrafficPolicySpec.HeaderTransformation]
            add: _containers.RepeatedCompositeFieldContainer[TrafficPolicySpec.HeaderTransformation]
            remove: _containers.RepeatedScalarFieldContainer[str]
            body: TrafficPolicySpec.BodyTransformation
            metadata: _containers.ScalarMap[str, str]
            def __init__(self, set: _Optional[_Iterable[_Union[TrafficPolicySpec.HeaderTransformation, _Mapping]]] = ..., add: _Optional[_Iterable[_Union[TrafficPolicySpec.HeaderTransformation, _Mapping]]] = ..., remove: _Optional[_Iterable[str]] = ..., body: _Optional[_Union[TrafficPolicySpec.BodyTransformation, _Mapping]] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...
        REQUEST_FIELD_NUMBER: _ClassVar[int]
        RESPONSE_FIELD_NUMBER: _ClassVar[int]
        request: TrafficPolicySpec.TransformationPolicy.Transform
        response: TrafficPolicySpec.TransformationPolicy.Transform
        def __init__(self, request: _Optional[_Union[TrafficPolicySpec.TransformationPolicy.Transform, _Mapping]] = ..., response: _Optional[_Union[TrafficPolicySpec.TransformationPolicy.Transform, _Mapping]] = ...) -> None: ...
    class HeaderTransformation(_message.Message):
        __slots__ = ("name", "expression")
        NAME_FIELD_NUMBER: _ClassVar[int]
        EXPRESSION_FIELD_NUMBER: _ClassVar[int]
        name: str
        expression: str
        def __init__(self, name: _Optional[str] = ..., expression: _Optional[str] = ...) -> None: ...
    class BodyTransformation(_message.Message):
        __slots__ = ("expression",)
        EXPRESSION_FIELD_NUMBER: _ClassVar[int]
        expression: str
        def __init__(self, expression: _Optional[str] = ...) -> None: ...
    class CSRF(_message.Message):
        __slots__ = ("additional_origins",)
        ADDITIONAL_ORIGINS_FIELD_NUMBER: _ClassVar[int]
        additional_origins: _containers.RepeatedScalarFieldContainer[str]
        def __init__(self, additional_origins: _Optional[_Iterable[str]] = ...) -> None: ...
    class ExtProc(_message.Message):
        __slots__ = ("target", "failure_mode", "request_attributes", "response_attributes", "metadata_context", "processing_options", "inline_policies")
        class FailureMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            FAIL_CLOSED: _ClassVar[TrafficPolicySpec.ExtProc.FailureMode]
            FAIL_OPEN: _ClassVar[TrafficPolicySpec.ExtProc.FailureMode]
        FAIL_CLOSED: TrafficPolicySpec.ExtProc.FailureMode
        FAIL_OPEN: TrafficPolicySpec.ExtProc.FailureMode
        class BodySendMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            NONE: _ClassVar[TrafficPolicySpec.ExtProc.BodySendMode]
            BUFFERED: _ClassVar[TrafficPolicySpec.ExtProc.BodySendMode]
            BUFFERED_PARTIAL: _ClassVar[TrafficPolicySpec.ExtProc.BodySendMode]
            FULL_DUPLEX_STREAMED: _ClassVar[TrafficPolicySpec.ExtProc.BodySendMode]
        NONE: TrafficPolicySpec.ExtProc.BodySendMode
        BUFFERED: TrafficPolicySpec.ExtProc.BodySendMode
        BUFFERED_PARTIAL: TrafficPolicySpec.ExtProc.BodySendMode
        FULL_DUPLEX_STREAMED: TrafficPolicySpec.ExtProc.BodySendMode
        class HeaderTrailerSendMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            UNSET: _ClassVar[TrafficPolicySpec.ExtProc.HeaderTrailerSendMode]
            SEND: _ClassVar[TrafficPolicySpec.ExtProc.HeaderTrailerSendMode]
            SKIP: _ClassVar[TrafficPolicySpec.ExtProc.HeaderTrailerSendMode]
        UNSET: TrafficPolicySpec.ExtProc.HeaderTrailerSendMode
        SEND: TrafficPolicySpec.ExtProc.HeaderTrailerSendMode
        SKIP: TrafficPolicySpec.ExtProc.HeaderTrailerSendMode
        class RequestAttributesEntry(_message.Message):
            __slots__ = ("key", "value")
            KEY_FIELD_NUMBER: _ClassVar[int]
            VALUE_FIELD_NUMBER: _ClassVar[int]
            key: str
            value: str
            def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
        class ResponseAttributesEntry(_message.Message):
            __slots__ = ("key", "value")
            KEY_FIELD_NUMBER: _ClassVar[int]
            VALUE_FIELD_NUMBER: _ClassVar[int]
            key: str
            value: str
            def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
        class MetadataContextEntry(_message.Message):
            __slots__ = ("key", "value")
            KEY_FIELD_NUMBER: _ClassVar[int]
            VALUE_FIELD_NUMBER: _ClassVar[int]
            key: str
            value: TrafficPolicySpec.ExtProc.NamespacedMetadataContext
            def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[TrafficPolicySpec.ExtProc.NamespacedMetadataContext, _Mapping]] = ...) -> None: ...
        class NamespacedMetadataContext(_message.Message):
            __slots__ = ("context",)
            class ContextEntry(_message.Message):
                __slots__ = ("key", "value")
                KEY_FIELD_NUMBER: _ClassVar[int]
                VALUE_FIELD_NUMBER: _ClassVar[int]
                key: str
                value: str
                def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
            CONTEXT_FIELD_NUMBER: _ClassVar[int]
            context: _containers.ScalarMap[str, str]
            def __init__(self, context: _Optional[_Mapping[str, str]] = ...) -> None: ...
        class ProcessingOptions(_message.Message):
            __slots__ = ("request_body_mode", "response_body_mode", "request_header_mode", "response_header_mode", "request_trailer_mode", "response_trailer_mode", "allow_mode_override")
            REQUEST_BODY_MODE_FIELD_NUMBER: _ClassVar[int]
            RESPONSE_BODY_MODE_FIELD_NUMBER: _ClassVar[int]
            REQUEST_HEADER_MODE_FIELD_NUMBER: _ClassVar[int]
            RESPONSE_HEADER_MODE_FIELD_NUMBER: _ClassVar[int]
            REQUEST_TRAILER_MODE_FIELD_NUMBER: _ClassVar[int]
            RESPONSE_TRAILER_MODE_FIELD_NUMBER: _ClassVar[int]
            ALLOW_MODE_OVERRIDE_FIELD_NUMBER: _ClassVar[int]
            request_body_mode: TrafficPolicySpec.ExtProc.BodySendMode
            response_body_mode: TrafficPolicySpec.ExtProc.BodySendMode
            request_header_mode: TrafficPolicySpec.ExtProc.HeaderTrailerSendMode
            response_header_mode: TrafficPolicySpec.ExtProc.HeaderTrailerSendMode
            request_trailer_mode: TrafficPolicySpec.ExtProc.HeaderTrailerSendMode
            response_trailer_mode: TrafficPolicySpec.ExtProc.HeaderTrailerSendMode
            allow_mode_override: bool
            def __init__(self, request_body_mode: _Optional[_Union[TrafficPolicySpec.ExtProc.BodySendMode, str]] = ..., response_body_mode: _Optional[_Union[TrafficPolicySpec.ExtProc.BodySendMode, str]] = ..., request_header_mode: _Optional[_Union[TrafficPolicySpec.ExtProc.HeaderTrailerSendMode, str]] = ..., response_header_mode: _Optional[_Union[TrafficPolicySpec.ExtProc.HeaderTrailerSendMode, str]] = ..., request_trailer_mode: _Optional[_Union[TrafficPolicySpec.ExtProc.HeaderTrailerSendMode, str]] = ..., response_trailer_mode: _Optional[_Union[TrafficPolicySpec.ExtProc.HeaderTrailerSendMode, str]] = ..., allow_mode_override: _Optional[bool] = ...) -> None: ...
        TARGET_FIELD_NUMBER: _ClassVar[int]
        FAILURE_MODE_FIELD_NUMBER: _ClassVar[int]
        REQUEST_ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
        RESPONSE_ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
        METADATA_CONTEXT_FIELD_NUMBER: _ClassVar[int]
        PROCESSING_OPTIONS_FIELD_NUMBER: _ClassVar[int]
        INLINE_POLICIES_FIELD_NUMBER: _ClassVar[int]
        target: BackendReference
        failure_mode: TrafficPolicySpec.ExtProc.FailureMode
        request_attributes: _containers.ScalarMap[str, str]
        response_attributes: _containers.ScalarMap[str, str]
        metadata_context: _containers.MessageMap[str, TrafficPolicySpec.ExtProc.NamespacedMetadataContext]
        processing_options: TrafficPolicySpec.ExtProc.ProcessingOptions
        inline_policies: _containers.RepeatedCompositeFieldContainer[BackendPolicySpec]
        def __init__(self, target: _Optional[_Union[BackendReference, _Mapping]] = ..., failure_mode: _Optional[_Union[TrafficPolicySpec.ExtProc.FailureMode, str]] = ..., request_attributes: _Optional[_Mapping[str, str]] = ..., response_attributes: _Optional[_Mapping[str, str]] = ..., metadata_context: _Optional[_Mapping[str, TrafficPolicySpec.ExtProc.NamespacedMetadataContext]] = ..., processing_options: _Optional[_Union[TrafficPolicySpec.ExtProc.ProcessingOptions, _Mapping]] = ..., inline_policies: _Optional[_Iterable[_Union[BackendPolicySpec, _Mapping]]] = ...) -> None: ...
    class HostRewrite(_message.Message):
        __slots__ = ("mode",)
        class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            NONE: _ClassVar[TrafficPolicySpec.HostRewrite.Mode]
            AUTO: _ClassVar[TrafficPolicySpec.HostRewrite.Mode]
        NONE: TrafficPolicySpec.HostRewrite.Mode
        AUTO: TrafficPolicySpec.HostRewrite.Mode
        MODE_FIELD_NUMBER: _ClassVar[int]
        mode: TrafficPolicySpec.HostRewrite.Mode
        def __init__(self, mode: _Optional[_Union[TrafficPolicySpec.HostRewrite.Mode, str]] = ...) -> None: ...
    class Buffer(_message.Message):
        __slots__ = ("request", "response")
        class FailureMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            FAIL_CLOSED: _ClassVar[TrafficPolicySpec.Buffer.FailureMode]
            FAIL_OPEN: _ClassVar[TrafficPolicySpec.Buffer.FailureMode]
        FAIL_CLOSED: TrafficPolicySpec.Buffer.FailureMode
        FAIL_OPEN: TrafficPolicySpec.Buffer.FailureMode
        class BufferBody(_message.Message):
            __slots__ = ("max_bytes", "failure_mode")
            MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
            FAILURE_MODE_FIELD_NUMBER: _ClassVar[int]
            max_bytes: int
            failure_mode: TrafficPolicySpec.Buffer.FailureMode
            def __init__(self, max_bytes: _Optional[int] = ..., failure_mode: _Optional[_Union[TrafficPolicySpec.Buffer.FailureMode, str]] = ...) -> None: ...
        REQUEST_FIELD_NUMBER: _ClassVar[int]
        RESPONSE_FIELD_NUMBER: _ClassVar[int]
        request: TrafficPolicySpec.Buffer.BufferBody
        response: TrafficPolicySpec.Buffer.BufferBody
        def __init__(self, request: _Optional[_Union[TrafficPolicySpec.Buffer.BufferBody, _Mapping]] = ..., response: _Optional[_Union[TrafficPolicySpec.Buffer.BufferBody, _Mapping]] = ...) -> None: ...
    PHASE_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    RETRY_FIELD_NUMBER: _ClassVar[int]
    LOCAL_RATE_LIMIT_FIELD_NUMBER: _ClassVar[int]
    EXT_AUTHZ_FIELD_NUMBER: _ClassVar[int]
    AUTHORIZATION_FIELD_NUMBER: _ClassVar[int]
    JWT_FIELD_NUMBER: _ClassVar[int]
    TRANSFORMATION_FIELD_NUMBER: _ClassVar[int]
    REMOTE_RATE_LIMIT_FIELD_NUMBER: _ClassVar[int]
    CSRF_FIELD_NUMBER: _ClassVar[int]
    EXT_PROC_FIELD_NUMBER: _ClassVar[int]
    REQUEST_HEADER_MODIFIER_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_HEADER_MODIFIER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_REDIRECT_FIELD_NUMBER: _ClassVar[int]
    URL_REWRITE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_MIRROR_FIELD_NUMBER: _ClassVar[int]
    DIRECT_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    CORS_FIELD_NUMBER: _ClassVar[int]
    BASIC_AUTH_FIELD_NUMBER: _ClassVar[int]
    API_KEY_AUTH_FIELD_NUMBER: _ClassVar[int]
    HOST_REWRITE_FIELD_NUMBER: _ClassVar[int]
    BUFFER_FIELD_NUMBER: _ClassVar[int]
    DELAY_FIELD_NUMBER: _ClassVar[int]
    phase: TrafficPolicySpec.PolicyPhase
    timeout: Timeout
    retry: Retry
    local_rate_limit: TrafficPolicySpec.LocalRateLimit
    ext_authz: TrafficPolicySpec.ExternalAuth
    authorization: TrafficPolicySpec.RBAC
    jwt: TrafficPolicySpec.JWT
    transformation: TrafficPolicySpec.TransformationPolicy
    remote_rate_limit: TrafficPolicySpec.RemoteRateLimit
    csrf: TrafficPolicySpec.CSRF
    ext_proc: TrafficPolicySpec.ExtProc
    request_header_modifier: HeaderModifier
    response_header_modifier: HeaderModifier
    request_redirect: RequestRedirect
    url_rewrite: UrlRewrite
    request_mirror: RequestMirrors
    direct_response: DirectResponse
    cors: CORS
    basic_auth: TrafficPolicySpec.BasicAuthentication
    api_key_auth: TrafficPolicySpec.APIKey
    host_rewrite: TrafficPolicySpec.HostRewrite
    buffer: TrafficPolicySpec.Buffer
    delay: Delay
    def __init__(self, phase: _Optional[_Union[TrafficPolicySpec.PolicyPhase, str]] = ..., timeout: _Optional[_Union[Timeout, _Mapping]] = ..., retry: _Optional[_Union[Retry, _Mapping]] = ..., local_rate_limit: _Optional[_Union[TrafficPolicySpec.LocalRateLimit, _Mapping]] = ..., ext_authz: _Optional[_Union[TrafficPolicySpec.ExternalAuth, _Mapping]] = ..., authorization: _Optional[_Union[TrafficPolicySpec.RBAC, _Mapping]] = ..., jwt: _Optional[_Union[TrafficPolicySpec.JWT, _Mapping]] = ..., transformation: _Optional[_Union[TrafficPolicySpec.TransformationPolicy, _Mapping]] = ..., remote_rate_limit: _Optional[_Union[TrafficPolicySpec.RemoteRateLimit, _Mapping]] = ..., csrf: _Optional[_Union[TrafficPolicySpec.CSRF, _Mapping]] = ..., ext_proc: _Optional[_Union[TrafficPolicySpec.ExtProc, _Mapping]] = ..., request_header_modifier: _Optional[_Union[HeaderModifier, _Mapping]] = ..., response_header_modifier: _Optional[_Union[HeaderModifier, _Mapping]] = ..., request_redirect: _Optional[_Union[RequestRedirect, _Mapping]] = ..., url_rewrite: _Optional[_Union[UrlRewrite, _Mapping]] = ..., request_mirror: _Optional[_Union[RequestMirrors, _Mapping]] = ..., direct_response: _Optional[_Union[DirectResponse, _Mapping]] = ..., cors: _Optional[_Union[CORS, _Mapping]] = ..., basic_auth: _Optional[_Union[TrafficPolicySpec.BasicAuthentication, _Mapping]] = ..., api_key_auth: _Optional[_Union[TrafficPolicySpec.APIKey, _Mapping]] = ..., host_rewrite: _Optional[_Union[TrafficPolicySpec.HostRewrite, _Mapping]] = ..., buffer: _Optional[_Union[TrafficPolicySpec.Buffer, _Mapping]] = ..., delay: _Optional[_Union[Delay, _Mapping]] = ...) -> None: ...

class BackendPolicySpec(_message.Message):
    __slots__ = ("a2a", "inference_routing", "backend_tls", "auth", "mcp_authorization", "mcp_authentication", "ai", "request_header_modifier", "response_header_modifier", "request_redirect", "request_mirror", "backend_http", "backend_tcp", "transformation", "health", "backend_tunnel", "ext_authz", "mcp_guardrails", "authorization")
    class Ai(_message.Message):
        __slots__ = ("prompt_guard", "defaults", "overrides", "transformations", "final_transformations", "prompts", "model_aliases", "prompt_caching", "routes")
        class BuiltinRegexRule(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            BUILTIN_UNSPECIFIED: _ClassVar[BackendPolicySpec.Ai.BuiltinRegexRule]
            SSN: _ClassVar[BackendPolicySpec.Ai.BuiltinRegexRule]
            CREDIT_CARD: _ClassVar[BackendPolicySpec.Ai.BuiltinRegexRule]
            PHONE_NUMBER: _ClassVar[BackendPolicySpec.Ai.BuiltinRegexRule]
            EMAIL: _ClassVar[BackendPolicySpec.Ai.BuiltinRegexRule]
            CA_SIN: _ClassVar[BackendPolicySpec.Ai.BuiltinRegexRule]
        BUILTIN_UNSPECIFIED: BackendPolicySpec.Ai.BuiltinRegexRule
        SSN: BackendPolicySpec.Ai.BuiltinRegexRule
        CREDIT_CARD: BackendPolicySpec.Ai.BuiltinRegexRule
        PHONE_NUMBER: BackendPolicySpec.Ai.BuiltinRegexRule
        EMAIL: BackendPolicySpec.Ai.BuiltinRegexRule
        CA_SIN: BackendPolicySpec.Ai.BuiltinRegexRule
        class ActionKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            ACTION_UNSPECIFIED: _ClassVar[BackendPolicySpec.Ai.ActionKind]
            MASK: _ClassVar[BackendPolicySpec.Ai.ActionKind]
            REJECT: _ClassVar[BackendPolicySpec.Ai.ActionKind]
        ACTION_UNSPECIFIED: BackendPolicySpec.Ai.ActionKind
        MASK: BackendPolicySpec.Ai.ActionKind
        REJECT: BackendPolicySpec.Ai.ActionKind
        class ContentScope(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            CONTENT_SCOPE_UNSPECIFIED: _ClassVar[BackendPolicySpec.Ai.ContentScope]
            CONTENT_SCOPE_SYSTEM_PROMPT: _ClassVar[BackendPolicySpec.Ai.ContentScope]
            CONTENT_SCOPE_MESSAGES: _ClassVar[BackendPolicySpec.Ai.ContentScope]
            CONTENT_SCOPE_TOOL_OUTPUT: _ClassVar[BackendPolicySpec.Ai.ContentScope]
            CONTENT_SCOPE_TOOL_INPUT: _ClassVar[BackendPolicySpec.Ai.ContentScope]
        CONTENT_SCOPE_UNSPECIFIED: BackendPolicySpec.Ai.ContentScope
        CONTENT_SCOPE_SYSTEM_PROMPT: BackendPolicySpec.Ai.ContentScope
        CONTENT_SCOPE_MESSAGES: BackendPolicySpec.Ai.ContentScope
        CONTENT_SCOPE_TOOL_OUTPUT: BackendPolicySpec.Ai.ContentScope
        CONTENT_SCOPE_TOOL_INPUT: BackendPolicySpec.Ai.ContentScope
        class RouteType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            UNSPECIFIED: _ClassVar[BackendPolicySpec.Ai.RouteType]
            COMPLETIONS: _ClassVar[BackendPolicySpec.Ai.RouteType]
            MESSAGES: _ClassVar[BackendPolicySpec.Ai.RouteType]
            MODELS: _ClassVar[BackendPolicySpec.Ai.RouteType]
            PASSTHROUGH: _ClassVar[BackendPolicySpec.Ai.RouteType]
            DETECT: _ClassVar[BackendPolicySpec.Ai.RouteType]
            RESPONSES: _ClassVar[BackendPolicySpec.Ai.RouteType]
            ANTHROPIC_TOKEN_COUNT: _ClassVar[BackendPolicySpec.Ai.RouteType]
            EMBEDDINGS: _ClassVar[BackendPolicySpec.Ai.RouteType]
            REALTIME: _ClassVar[BackendPolicySpec.Ai.RouteType]
            RERANK: _ClassVar[BackendPolicySpec.Ai.RouteType]
            GENERATE_CONTENT: _ClassVar[BackendPolicySpec.Ai.RouteType]
            GEMINI_COUNT_TOKENS: _ClassVar[BackendPolicySpec.Ai.RouteType]
        UNSPECIFIED: BackendPolicySpec.Ai.RouteType
        COMPLETIONS: BackendPolicySpec.Ai.RouteType
        MESSAGES: BackendPolicySpec.Ai.RouteType
        MODELS: BackendPolicySpec.Ai.RouteType
        PASSTHROUGH: BackendPolicySpec.Ai.RouteType
        DETECT: BackendPolicySpec.Ai.RouteType
        RESPONSES: BackendPolicySpec.Ai.RouteType
        ANTHROPIC_TOKEN_COUNT: BackendPolicySpec.Ai.RouteType
        EMBEDDINGS: BackendPolicySpec.Ai.RouteType
        REALTIME: BackendPolicySpec.Ai.RouteType
        RERANK: BackendPolicySpec.Ai.RouteType
        GENERATE_CONTENT: BackendPolicySpec.Ai.RouteType
        GEMINI_COUNT_TOKENS: BackendPolicySpec.Ai.RouteType
        class DefaultsEntry(_message.Message):
            __slots__ = ("key", "value")
            KEY_FIELD_NUMBER: _ClassVar[int]
            VALUE_FIELD_NUMBER: _ClassVar[int]
            key: str
            value: str
            def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
        class OverridesEntry(_message.Message):
            __slots__ = ("key", "value")
            KEY_FIELD_NUMBER: _ClassVar[int]
            VALUE_FIELD_NUMBER: _ClassVar[int]
            key: str
            value: str
            def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
        class TransformationsEntry(_message.Message):
            __slots__ = ("key", "value")
            KEY_FIELD_NUMBER: _ClassVar[int]
            VALUE_FIELD_NUMBER: _ClassVar[int]
            key: str
            value: str
            def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
        class FinalTransformationsEntry(_message.Message):
            __slots__ = ("key", "value")
            KEY_FIELD_NUMBER: _ClassVar[int]
            VALUE_FIELD_NUMBER: _ClassVar[int]
            key: str
            value: str
            def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
        class ModelAliasesEntry(_message.Message):
            __slots__ = ("key", "value")
            KEY_FIELD_NUMBER: _ClassVar[int]
            VALUE_FIELD_NUMBER: _ClassVar[int]
            key: str
            value: str
            def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
        class RoutesEntry(_message.Message):
            __slots__ = ("key", "value")
            KEY_FIELD_NUMBER: _ClassVar[int]
            VALUE_FIELD_NUMBER: _ClassVar[int]
            key: str
            value: BackendPolicySpec.Ai.RouteType
            def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[BackendPolicySpec.Ai.RouteType, str]] = ...) -> None: ...
        class Message(_message.Message):
            __slots__ = ("role", "content")
            ROLE_FIELD_NUMBER: _ClassVar[int]
            CONTENT_FIELD_NUMBER: _ClassVar[int]
            role: str
            content: str
            def __init__(self, role: _Optional[str] = ..., content: _Optional[str] = ...) -> None: ...
        class PromptEnrichment(_message.Message):
            __slots__ = ("append", "prepend")
            APPEND_FIELD_NUMBER: _ClassVar[int]
            PREPEND_FIELD_NUMBER: _ClassVar[int]
            append: _containers.RepeatedCompositeFieldContainer[BackendPolicySpec.Ai.Message]
            prepend: _containers.RepeatedCompositeFieldContainer[BackendPolicySpec.Ai.Message]
            def __init__(self, append: _Optional[_Iterable[_Union[BackendPolicySpec.Ai.Message, _Mapping]]] = ..., prepend: _Optional[_Iterable[_Union[BackendPolicySpec.Ai.Message, _Mapping]]] = ...) -> None: ...
        class RegexRule(_message.Message):
            __slots__ = ("builtin", "regex")
            BUILTIN_FIELD_NUMBER: _ClassVar[int]
            REGEX_FIELD_NUMBER: _ClassVar[int]
            builtin: BackendPolicySpec.Ai.BuiltinRegexRule
            regex: str
            def __init__(self, builtin: _Optional[_Union[BackendPolicySpec.Ai.BuiltinRegexRule, str]] = ..., regex: _Optional[str] = ...) -> None: ...
        class RegexRules(_message.Message):
            __slots__ = ("action", "rules")
            ACTION_FIELD_NUMBER: _ClassVar[int]
            RULES_FIELD_NUMBER: _ClassVar[int]
            action: BackendPolicySpec.Ai.ActionKind
            rules: _containers.RepeatedCompositeFieldContainer[BackendPolicySpec.Ai.RegexRule]
            def __init__(self, action: _Optional[_Union[BackendPolicySpec.Ai.ActionKind, str]] = ..., rules: _Optional[_Iterable[_Union[BackendPolicySpec.Ai.RegexRule, _Mapping]]] = ...) -> None: ...
        class Webhook(_message.Message):
            __slots__ = ("backend", "headers", "forward_header_matches", "failure_mode")
            class FailureMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
                __slots__ = ()
                FAIL_CLOSED: _ClassVar[BackendPolicySpec.Ai.Webhook.FailureMode]
                FAIL_OPEN: _ClassVar[BackendPolicySpec.Ai.Webhook.FailureMode]
            FAIL_CLOSED: BackendPolicySpec.Ai.Webhook.FailureMode
            FAIL_OPEN: BackendPolicySpec.Ai.Webhook.FailureMode
            class HeadersEntry(_message.Message):
                __slots__ = ("key", "value")
                KEY_FIELD_NUMBER: _ClassVar[int]
                VALUE_FIELD_NUMBER: _ClassVar[int]
                key: str
                value: str
                def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
            BACKEND_FIELD_NUMBER: _ClassVar[int]
            HEADERS_FIELD_NUMBER: _ClassVar[int]
            FORWARD_HEADER_MATCHES_FIELD_NUMBER: _ClassVar[int]
            FAILURE_MODE_FIELD_NUMBER: _ClassVar[int]
            backend: BackendReference
            headers: _containers.ScalarMap[str, str]
            forward_header_matches: _containers.RepeatedCompositeFieldContainer[HeaderMatch]
            failure_mode: BackendPolicySpec.Ai.Webhook.FailureMode
            def __init__(self, backend: _Optional[_Union[BackendReference, _Mapping]] = ..., headers: _Optional[_Mapping[str, str]] = ..., forward_header_matches: _Optional[_Iterable[_Union[HeaderMatch, _Mapping]]] = ..., failure_mode: _Optional[_Union[BackendPolicySpec.Ai.Webhook.FailureMode, str]] = ...) -> None: ...
        class Moderation(_message.Message):
            __slots__ = ("model", "inline_policies", "backend_ref")
            MODEL_FIELD_NUMBER: _ClassVar[int]
            INLINE_POLICIES_FIELD_NUMBER: _ClassVar[int]
            BACKEND_REF_FIELD_NUMBER: _ClassVar[int]
            model: str
            inline_policies: _containers.RepeatedCompositeFieldContainer[BackendPolicySpec]
            backend_ref: BackendReference
            def __init__(self, model: _Optional[str] = ..., inline_policies: _Optional[_Iterable[_Union[BackendPolicySpec, _Mapping]]] = ..., backend_ref: _Optional[_Union[BackendReference, _Mapping]] = ...) -> None: ...
        class BedrockGuardrails(_message.Message):
            __slots__ = ("identifier", "version", "region", "inline_policies", "backend_ref")
            IDENTIFIER_FIELD_NUMBER: _ClassVar[int]
            VERSION_FIELD_NUMBER: _ClassVar[int]
            REGION_FIELD_NUMBER: _ClassVar[int]
            INLINE_POLICIES_FIELD_NUMBER: _ClassVar[int]
            BACKEND_REF_FIELD_NUMBER: _ClassVar[int]
            identifier: str
            version: str
            region: str
            inline_policies: _containers.RepeatedCompositeFieldContainer[BackendPolicySpec]
            backend_ref: BackendReference
            def __init__(self, identifier: _Optional[str] = ..., version: _Optional[str] = ..., region: _Optional[str] = ..., inline_policies: _Optional[_Iterable[_Union[BackendPolicySpec, _Mapping]]] = ..., backend_ref: _Optional[_Union[BackendReference, _Mapping]] = ...) -> None: ...
        class GoogleModelArmor(_message.Message):
            __slots__ = ("template_id", "project_id", "location", "inline_policies", "backend_ref")
            TEMPLATE_ID_FIELD_NUMBER: _ClassVar[int]
            PROJECT_ID_FIELD_NUMBER: _ClassVar[int]
            LOCATION_FIELD_NUMBER: _ClassVar[int]
            INLINE_POLICIES_FIELD_NUMBER: _ClassVar[int]
            BACKEND_REF_FIELD_NUMBER: _ClassVar[int]
            template_id: str
            project_id: str
            location: str
            inline_policies: _containers.RepeatedCompositeFieldContainer[BackendPolicySpec]
            backend_ref: BackendReference
            def __init__(self, template_id: _Optional[str] = ..., project_id: _Optional[str] = ..., location: _Optional[str] = ..., inline_policies: _Optional[_Iterable[_Union[BackendPolicySpec, _Mapping]]] = ..., backend_ref: _Optional[_Union[BackendReference, _Mapping]] = ...) -> None: ...
        class AzureContentSafety(_message.Message):
            __slots__ = ("endpoint", "severity_threshold", "api_version", "blocklist_names", "halt_on_blocklist_hit", "inline_policies", "backend_ref")
            ENDPOINT_FIELD_NUMBER: _ClassVar[int]
            SEVERITY_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
            API_VERSION_FIELD_NUMBER: _ClassVar[int]
            BLOCKLIST_NAMES_FIELD_NUMBER: _ClassVar[int]
            HALT_ON_BLOCKLIST_HIT_FIELD_NUMBER: _ClassVar[int]
            INLINE_POLICIES_FIELD_NUMBER: _ClassVar[int]
            BACKEND_REF_FIELD_NUMBER: _ClassVar[int]
            endpoint: str
            severity_threshold: int
            api_version: str
            blocklist_names: _containers.RepeatedScalarFieldContainer[str]
            halt_on_blocklist_hit: bool
            inline_policies: _containers.RepeatedCompositeFieldContainer[BackendPolicySpec]
            backend_ref: BackendReference
            def __init__(self, endpoint: _Optional[str] = ..., severity_threshold: _Optional[int] = ..., api_version: _Optional[str] = ..., blocklist_names: _Optional[_Iterable[str]] = ..., halt_on_blocklist_hit: _Optional[bool] = ..., inline_policies: _Optional[_Iterable[_Union[BackendPolicySpec, _Mapping]]] = ..., backend_ref: _Optional[_Union[BackendReference, _Mapping]] = ...) -> None: ...
        class RequestRejection(_message.Message):
            __slots__ = ("body", "status")
            BODY_FIELD_NUMBER: _ClassVar[int]
            STATUS_FIELD_NUMBER: _ClassVar[int]
            body: bytes
            status: int
            def __init__(self, body: _Optional[bytes] = ..., status: _Optional[int] = ...) -> None: ...
        class ResponseGuard(_message.Message):
            __slots__ = ("rejection", "regex", "webhook", "google_model_armor", "bedrock_guardrails", "azure_content_safety")
            REJECTION_FIELD_NUMBER: _ClassVar[int]
            REGEX_FIELD_NUMBER: _ClassVar[int]
            WEBHOOK_FIELD_NUMBER: _ClassVar[int]
            GOOGLE_MODEL_ARMOR_FIELD_NUMBER: _ClassVar[int]
            BEDROCK_GUARDRAILS_FIELD_NUMBER: _ClassVar[int]
            AZURE_CONTENT_SAFETY_FIELD_NUMBER: _ClassVar[int]
            rejection: BackendPolicySpec.Ai.RequestRejection
            regex: BackendPolicySpec.Ai.RegexRules
            webhook: BackendPolicySpec.Ai.Webhook
            google_model_armor: BackendPolicySpec.Ai.GoogleModelArmor
            bedrock_guardrails: BackendPolicySpec.Ai.BedrockGuardrails
            azure_content_safety: BackendPolicySpec.Ai.AzureContentSafety
            def __init__(self, rejection: _Optional[_Union[BackendPolicySpec.Ai.RequestRejection, _Mapping]] = ..., regex: _Optional[_Union[BackendPolicySpec.Ai.RegexRules, _Mapping]] = ..., webhook: _Optional[_Union[BackendPolicySpec.Ai.Webhook, _Mapping]] = ..., google_model_armor: _Optional[_Union[BackendPolicySpec.Ai.GoogleModelArmor, _Mapping]] = ..., bedrock_guardrails: _Optional[_Union[BackendPolicySpec.Ai.BedrockGuardrails, _Mapping]] = ..., azure_content_safety: _Optional[_Union[BackendPolicySpec.Ai.AzureContentSafety, _Mapping]] = ...) -> None: ...
        class RequestGuard(_message.Message):
            __slots__ = ("rejection", "scope", "regex", "webhook", "openai_moderation", "google_model_armor", "bedrock_guardrails", "azure_content_safety")
            REJECTION_FIELD_NUMBER: _ClassVar[int]
            SCOPE_FIELD_NUMBER: _ClassVar[int]
            REGEX_FIELD_NUMBER: _ClassVar[int]
            WEBHOOK_FIELD_NUMBER: _ClassVar[int]
            OPENAI_MODERATION_FIELD_NUMBER: _ClassVar[int]
            GOOGLE_MODEL_ARMOR_FIELD_NUMBER: _ClassVar[int]
            BEDROCK_GUARDRAILS_FIELD_NUMBER: _ClassVar[int]
            AZURE_CONTENT_SAFETY_FIELD_NUMBER: _ClassVar[int]
            rejection: BackendPolicySpec.Ai.RequestRejection
            scope: _containers.RepeatedScalarFieldContainer[BackendPolicySpec.Ai.ContentScope]
            regex: BackendPolicySpec.Ai.RegexRules
            webhook: BackendPolicySpec.Ai.Webhook
            openai_moderation: BackendPolicySpec.Ai.Moderation
            google_model_armor: BackendPolicySpec.Ai.GoogleModelArmor
            bedrock_guardrails: BackendPolicySpec.Ai.BedrockGuardrails
            azure_content_safety: BackendPolicySpec.Ai.AzureContentSafety
            def __init__(self, rejection: _Optional[_Union[BackendPolicySpec.Ai.RequestRejection, _Mapping]] = ..., scope: _Optional[_Iterable[_Union[BackendPolicySpec.Ai.ContentScope, str]]] = ..., regex: _Optional[_Union[BackendPolicySpec.Ai.RegexRules, _Mapping]] = ..., webhook: _Optional[_Union[BackendPolicySpec.Ai.Webhook, _Mapping]] = ..., openai_moderation: _Optional[_Union[BackendPolicySpec.Ai.Moderation, _Mapping]] = ..., google_model_armor: _Optional[_Union[BackendPolicySpec.Ai.GoogleModelArmor, _Mapping]] = ..., bedrock_guardrails: _Optional[_Union[BackendPolicySpec.Ai.BedrockGuardrails, _Mapping]] = ..., azure_content_safety: _Optional[_Union[BackendPolicySpec.Ai.AzureContentSafety, _Mapping]] = ...) -> None: ...
        class PromptGuard(_message.Message):
            __slots__ = ("request", "response", "streaming")
            class Streaming(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
                __slots__ = ()
                DISABLED: _ClassVar[BackendPolicySpec.Ai.PromptGuard.Streaming]
                ENABLED: _ClassVar[BackendPolicySpec.Ai.PromptGuard.Streaming]
            DISABLED: BackendPolicySpec.Ai.PromptGuard.Streaming
            ENABLED: BackendPolicySpec.Ai.PromptGuard.Streaming
            REQUEST_FIELD_NUMBER: _ClassVar[int]
            RESPONSE_FIELD_NUMBER: _ClassVar[int]
            STREAMING_FIELD_NUMBER: _ClassVar[int]
            request: _containers.RepeatedCompositeFieldContainer[BackendPolicySpec.Ai.RequestGuard]
            response: _containers.RepeatedCompositeFieldContainer[BackendPolicySpec.Ai.ResponseGuard]
            streaming: BackendPolicySpec.Ai.PromptGuard.Streaming
            def __init__(self, request: _Optional[_Iterable[_Union[BackendPolicySpec.Ai.RequestGuard, _Mapping]]] = ..., response: _Optional[_Iterable[_Union[BackendPolicySpec.Ai.ResponseGuard, _Mapping]]] = ..., streaming: _Optional[_Union[BackendPolicySpec.Ai.PromptGuard.Streaming, str]] = ...) -> None: ...
        class PromptCaching(_message.Message):
            __slots__ = ("cache_system", "cache_messages", "cache_tools", "min_tokens", "cache_message_offset")
            CACHE_SYSTEM_FIELD_NUMBER: _ClassVar[int]
            CACHE_MESSAGES_FIELD_NUMBER: _ClassVar[int]
            CACHE_TOOLS_FIELD_NUMBER: _ClassVar[int]
            MIN_TOKENS_FIELD_NUMBER: _ClassVar[int]
            CACHE_MESSAGE_OFFSET_FIELD_NUMBER: _ClassVar[int]
            cache_system: bool
            cache_messages: bool
            cache_tools: bool
            min_tokens: int
            cache_message_offset: int
            def __init__(self, cache_system: _Optional[bool] = ..., cache_messages: _Optional[bool] = ..., cache_tools: _Optional[bool] = ..., min_tokens: _Optional[int] = ..., cache_message_offset: _Optional[int] = ...) -> None: ...
        PROMPT_GUARD_FIELD_NUMBER: _ClassVar[int]
        DEFAULTS_FIELD_NUMBER: _ClassVar[int]
        OVERRIDES_FIELD_NUMBER: _ClassVar[int]
        TRANSFORMATIONS_FIELD_NUMBER: _ClassVar[int]
        FINAL_TRANSFORMATIONS_FIELD_NUMBER: _ClassVar[int]
        PROMPTS_FIELD_NUMBER: _ClassVar[int]
        MODEL_ALIASES_FIELD_NUMBER: _ClassVar[int]
        PROMPT_CACHING_FIELD_NUMBER: _ClassVar[int]
        ROUTES_FIELD_NUMBER: _ClassVar[int]
        prompt_guard: BackendPolicySpec.Ai.PromptGuard
        defaults: _containers.ScalarMap[str, str]
        overrides: _containers.ScalarMap[str, str]
        transformations: _containers.ScalarMap[str, str]
        final_transformations: _containers.ScalarMap[str, str]
        prompts: BackendPolicySpec.Ai.PromptEnrichment
        model_aliases: _containers.ScalarMap[str, str]
        prompt_caching: BackendPolicySpec.Ai.PromptCaching
        routes: _containers.ScalarMap[str, BackendPolicySpec.Ai.RouteType]
        def __init__(self, prompt_guard: _Optional[_Union[BackendPolicySpec.Ai.PromptGuard, _Mapping]] = ..., defaults: _Optional[_Mapping[str, str]] = ..., overrides: _Optional[_Mapping[str, str]] = ..., transformations: _Optional[_Mapping[str, str]] = ..., final_transformations: _Optional[_Mapping[str, str]] = ..., prompts: _Optional[_Union[BackendPolicySpec.Ai.PromptEnrichment, _Mapping]] = ..., model_aliases: _Optional[_Mapping[str, str]] = ..., prompt_caching: _Optional[_Union[BackendPolicySpec.Ai.PromptCaching, _Mapping]] = ..., routes: _Optional[_Mapping[str, BackendPolicySpec.Ai.RouteType]] = ...) -> None: ...
    class A2a(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    class InferenceRouting(_message.Message):
        __slots__ = ("endpoint_picker", "failure_mode")
        class FailureMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            UNKNOWN: _ClassVar[BackendPolicySpec.InferenceRouting.FailureMode]
            FAIL_CLOSED: _ClassVar[BackendPolicySpec.InferenceRouting.FailureMode]
            FAIL_OPEN: _ClassVar[BackendPolicySpec.InferenceRouting.FailureMode]
        UNKNOWN: BackendPolicySpec.InferenceRouting.FailureMode
        FAIL_CLOSED: BackendPolicySpec.InferenceRouting.FailureMode
        FAIL_OPEN: BackendPolicySpec.InferenceRouting.FailureMode
        ENDPOINT_PICKER_FIELD_NUMBER: _ClassVar[int]
        FAILURE_MODE_FIELD_NUMBER: _ClassVar[int]
        endpoint_picker: BackendReference
        failure_mode: BackendPolicySpec.InferenceRouting.FailureMode
        def __init__(self, endpoint_picker: _Optional[_Union[BackendReference, _Mapping]] = ..., failure_mode: _Optional[_Union[BackendPolicySpec.InferenceRouting.FailureMode, str]] = ...) -> None: ...
    class Eviction(_message.Message):
        __slots__ = ("duration", "restore_health", "consecutive_failures", "health_threshold")
        DURATION_FIELD_NUMBER: _ClassVar[int]
        RESTORE_HEALTH_FIELD_NUMBER: _ClassVar[int]
        CONSECUTIVE_FAILURES_FIELD_NUMBER: _ClassVar[int]
        HEALTH_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
        duration: _duration_pb2.Duration
        restore_health: float
        consecutive_failures: int
        health_threshold: float
        def __init__(self, duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., restore_health: _Optional[float] = ..., consecutive_failures: _Optional[int] = ..., health_threshold: _Optional[float] = ...) -> None: ...
    class Health(_message.Message):
        __slots__ = ("unhealthy_condition", "eviction")
        UNHEALTHY_CONDITION_FIELD_NUMBER: _ClassVar[int]
        EVICTION_FIELD_NUMBER: _ClassVar[int]
        unhealthy_condition: str
        eviction: BackendPolicySpec.Eviction
        def __init__(self, unhealthy_condition: _Optional[str] = ..., eviction: _Optional[_Union[BackendPolicySpec.Eviction, _Mapping]] = ...) -> None: ...
    class BackendTLS(_message.Message):
        __slots__ = ("cert", "key", "root", "verification", "hostname", "verify_subject_alt_names", "alpn", "key_exchange_groups", "certificate_source")
        class VerificationMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            STRICT: _ClassVar[BackendPolicySpec.BackendTLS.VerificationMode]
            INSECURE_HOST: _ClassVar[BackendPolicySpec.BackendTLS.VerificationMode]
            INSECURE_ALL: _ClassVar[BackendPolicySpec.BackendTLS.VerificationMode]
        STRICT: BackendPolicySpec.BackendTLS.VerificationMode
        INSECURE_HOST: BackendPolicySpec.BackendTLS.VerificationMode
        INSECURE_ALL: BackendPolicySpec.BackendTLS.VerificationMode
        class CertificateSource(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            INLINE: _ClassVar[BackendPolicySpec.BackendTLS.CertificateSource]
            SPIFFE: _ClassVar[BackendPolicySpec.BackendTLS.CertificateSource]
        INLINE: BackendPolicySpec.BackendTLS.CertificateSource
        SPIFFE: BackendPolicySpec.BackendTLS.CertificateSource
        CERT_FIELD_NUMBER: _ClassVar[int]
        KEY_FIELD_NUMBER: _ClassVar[int]
        ROOT_FIELD_NUMBER: _ClassVar[int]
        VERIFICATION_FIELD_NUMBER: _ClassVar[int]
        HOSTNAME_FIELD_NUMBER: _ClassVar[int]
        VERIFY_SUBJECT_ALT_NAMES_FIELD_NUMBER: _ClassVar[int]
        ALPN_FIELD_NUMBER: _ClassVar[int]
        KEY_EXCHANGE_GROUPS_FIELD_NUMBER: _ClassVar[int]
        CERTIFICATE_SOURCE_FIELD_NUMBER: _ClassVar[int]
        cert: bytes
        key: bytes
        root: bytes
        verification: BackendPolicySpec.BackendTLS.VerificationMode
        hostname: str
        verify_subject_alt_names: _containers.RepeatedScalarFieldContainer[str]
        alpn: Alpn
        key_exchange_groups: _containers.RepeatedScalarFieldContainer[TLSConfig.KeyExchangeGroup]
        certificate_source: BackendPolicySpec.BackendTLS.CertificateSource
        def __init__(self, cert: _Optional[bytes] = ..., key: _Optional[bytes] = ..., root: _Optional[bytes] = ..., verification: _Optional[_Union[BackendPolicySpec.BackendTLS.VerificationMode, str]] = ..., hostname: _Optional[str] = ..., verify_subject_alt_names: _Optional[_Iterable[str]] = ..., alpn: _Optional[_Union[Alpn, _Mapping]] = ..., key_exchange_groups: _Optional[_Iterable[_Union[TLSConfig.KeyExchangeGroup, str]]] = ..., certificate_source: _Optional[_Union[BackendPolicySpec.BackendTLS.CertificateSource, str]] = ...) -> None: ...
    class BackendHTTP(_message.Message):
        __slots__ = ("version", "request_timeout")
        class HttpVersion(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            UNSPECIFIED: _ClassVar[BackendPolicySpec.BackendHTTP.HttpVersion]
            HTTP1: _ClassVar[BackendPolicySpec.BackendHTTP.HttpVersion]
            HTTP2: _ClassVar[BackendPolicySpec.BackendHTTP.HttpVersion]
        UNSPECIFIED: BackendPolicySpec.BackendHTTP.HttpVersion
        HTTP1: BackendPolicySpec.BackendHTTP.HttpVersion
        HTTP2: BackendPolicySpec.BackendHTTP.HttpVersion
        VERSION_FIELD_NUMBER: _ClassVar[int]
        REQUEST_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
        version: BackendPolicySpec.BackendHTTP.HttpVersion
        request_timeout: _duration_pb2.Duration
        def __init__(self, version: _Optional[_Union[BackendPolicySpec.BackendHTTP.HttpVersion, str]] = ..., request_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...
    class BackendTunnel(_message.Message):
        __slots__ = ("proxy", "inline_policies")
        PROXY_FIELD_NUMBER: _ClassVar[int]
        INLINE_POLICIES_FIELD_NUMBER: _ClassVar[int]
        proxy: BackendReference
        inline_policies: _containers.RepeatedCompositeFieldContainer[BackendPolicySpec]
        def __init__(self, proxy: _Optional[_Union[BackendReference, _Mapping]] = ..., inline_policies: _Optional[_Iterable[_Union[BackendPolicySpec, _Mapping]]] = ...) -> None: ...
    class BackendTCP(_message.Message):
        __slots__ = ("keepalive", "connect_timeout")
        KEEPALIVE_FIELD_NUMBER: _ClassVar[int]
        CONNECT_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
        keepalive: KeepaliveConfig
        connect_timeout: _duration_pb2.Duration
        def __init__(self, keepalive: _Optional[_Union[KeepaliveConfig, _Mapping]] = ..., connect_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...
    class McpAuthorization(_message.Message):
        __slots__ = ("allow", "deny", "require")
        ALLOW_FIELD_NUMBER: _ClassVar[int]
        DENY_FIELD_NUMBER: _ClassVar[int]
        REQUIRE_FIELD_NUMBER: _ClassVar[int]
        allow: _containers.RepeatedScalarFieldContainer[str]
        deny: _containers.RepeatedScalarFieldContainer[str]
        require: _containers.RepeatedScalarFieldContainer[str]
        def __init__(self, allow: _Optional[_Iterable[str]] = ..., deny: _Optional[_Iterable[str]] = ..., require: _Optional[_Iterable[str]] = ...) -> None: ...
    class McpAuthentication(_message.Message):
        __slots__ = ("issuer", "audiences", "jwks_inline", "provider", "resource_metadata", "mode", "jwt_validation_options", "authorization_location", "client_id", "client_secret")
        class McpIDP(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            UNSPECIFIED: _ClassVar[BackendPolicySpec.McpAuthentication.McpIDP]
            AUTH0: _ClassVar[BackendPolicySpec.McpAuthentication.McpIDP]
            KEYCLOAK: _ClassVar[BackendPolicySpec.McpAuthentication.McpIDP]
            OKTA: _ClassVar[BackendPolicySpec.McpAuthentication.McpIDP]
            DESCOPE: _ClassVar[BackendPolicySpec.McpAuthentication.McpIDP]
            AUTHENTIK: _ClassVar[BackendPolicySpec.McpAuthentication.McpIDP]
            ENTRA: _ClassVar[BackendPolicySpec.McpAuthentication.McpIDP]
        UNSPECIFIED: BackendPolicySpec.McpAuthentication.McpIDP
        AUTH0: BackendPolicySpec.McpAuthentication.McpIDP
        KEYCLOAK: BackendPolicySpec.McpAuthentication.McpIDP
        OKTA: BackendPolicySpec.McpAuthentication.McpIDP
        DESCOPE: BackendPolicySpec.McpAuthentication.McpIDP
        AUTHENTIK: BackendPolicySpec.McpAuthentication.McpIDP
        ENTRA: BackendPolicySpec.McpAuthentication.McpIDP
        class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            OPTIONAL: _ClassVar[BackendPolicySpec.McpAuthentication.Mode]
            STRICT: _ClassVar[BackendPolicySpec.McpAuthentication.Mode]
            PERMISSIVE: _ClassVar[BackendPolicySpec.McpAuthentication.Mode]
        OPTIONAL: BackendPolicySpec.McpAuthentication.Mode
        STRICT: BackendPolicySpec.McpAuthentication.Mode
        PERMISSIVE: BackendPolicySpec.McpAuthentication.Mode
        class ResourceMetadata(_message.Message):
            __slots__ = ("extra",)
            class ExtraEntry(_message.Message):
                __slots__ = ("key", "value")
                KEY_FIELD_NUMBER: _ClassVar[int]
                VALUE_FIELD_NUMBER: _ClassVar[int]
                key: str
                value: _struct_pb2.Value
                def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ...) -> None: ...
            EXTRA_FIELD_NUMBER: _ClassVar[int]
            extra: _containers.MessageMap[str, _struct_pb2.Value]
            def __init__(self, extra: _Optional[_Mapping[str, _struct_pb2.Value]] = ...) -> None: ...
        ISSUER_FIELD_NUMBER: _ClassVar[int]
        AUDIENCES_FIELD_NUMBER: _ClassVar[int]
        JWKS_INLINE_FIELD_NUMBER: _ClassVar[int]
        PROVIDER_FIELD_NUMBER: _ClassVar[int]
        RESOURCE_METADATA_FIELD_NUMBER: _ClassVar[int]
        MODE_FIELD_NUMBER: _ClassVar[int]
        JWT_VALIDATION_OPTIONS_FIELD_NUMBER: _ClassVar[int]
        AUTHORIZATION_LOCATION_FIELD_NUMBER: _ClassVar[int]
        CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
        CLIENT_SECRET_FIELD_NUMBER: _ClassVar[int]
        issuer: str
        audiences: _containers.RepeatedScalarFieldContainer[str]
        jwks_inline: str
        provider: BackendPolicySpec.McpAuthentication.McpIDP
        resource_metadata: BackendPolicySpec.McpAuthentication.ResourceMetadata
        mode: BackendPolicySpec.McpAuthentication.Mode
        jwt_validation_options: JWTValidationOptions
        authorization_location: AuthorizationLocation
        client_id: str
        client_secret: str
        def __init__(self, issuer: _Optional[str] = ..., audiences: _Optional[_Iterable[str]] = ..., jwks_inline: _Optional[str] = ..., provider: _Optional[_Union[BackendPolicySpec.McpAuthentication.McpIDP, str]] = ..., resource_metadata: _Optional[_Union[BackendPolicySpec.McpAuthentication.ResourceMetadata, _Mapping]] = ..., mode: _Optional[_Union[BackendPolicySpec.McpAuthentication.Mode, str]] = ..., jwt_validation_options: _Optional[_Union[JWTValidationOptions, _Mapping]] = ..., authorization_location: _Optional[_Union[AuthorizationLocation, _Mapping]] = ..., client_id: _Optional[str] = ..., client_secret: _Optional[str] = ...) -> None: ...
    class McpGuardrails(_message.Message):
        __slots__ = ("processors",)
        class Phase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            OFF: _ClassVar[BackendPolicySpec.McpGuardrails.Phase]
            REQUEST: _ClassVar[BackendPolicySpec.McpGuardrails.Phase]
            RESPONSE: _ClassVar[BackendPolicySpec.McpGuardrails.Phase]
            FULL: _ClassVar[BackendPolicySpec.McpGuardrails.Phase]
        OFF: BackendPolicySpec.McpGuardrails.Phase
        REQUEST: BackendPolicySpec.McpGuardrails.Phase
        RESPONSE: BackendPolicySpec.McpGuardrails.Phase
        FULL: BackendPolicySpec.McpGuardrails.Phase
        class FailureMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            DENY: _ClassVar[BackendPolicySpec.McpGuardrails.FailureMode]
            ALLOW: _ClassVar[BackendPolicySpec.McpGuardrails.FailureMode]
        DENY: BackendPolicySpec.McpGuardrails.FailureMode
        ALLOW: BackendPolicySpec.McpGuardrails.FailureMode
        class Remote(_message.Message):
            __slots__ = ("target", "failure_mode", "metadata", "allowed_request_headers", "disallowed_request_headers", "inline_policies")
            class MetadataEntry(_message.Message):
                __slots__ = ("key", "value")
                KEY_FIELD_NUMBER: _ClassVar[int]
                VALUE_FIELD_NUMBER: _ClassVar[int]
                key: str
                value: str
                def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
            TARGET_FIELD_NUMBER: _ClassVar[int]
            FAILURE_MODE_FIELD_NUMBER: _ClassVar[int]
            METADATA_FIELD_NUMBER: _ClassVar[int]
            ALLOWED_REQUEST_HEADERS_FIELD_NUMBER: _ClassVar[int]
            DISALLOWED_REQUEST_HEADERS_FIELD_NUMBER: _ClassVar[int]
            INLINE_POLICIES_FIELD_NUMBER: _ClassVar[int]
            target: BackendReference
            failure_mode: BackendPolicySpec.McpGuardrails.FailureMode
            metadata: _containers.ScalarMap[str, str]
            allowed_request_headers: _containers.RepeatedScalarFieldContainer[str]
            disallowed_request_headers: _containers.RepeatedScalarFieldContainer[str]
            inline_policies: _containers.RepeatedCompositeFieldContainer[BackendPolicySpec]
            def __init__(self, target: _Optional[_Union[BackendReference, _Mapping]] = ..., failure_mode: _Optional[_Union[BackendPolicySpec.McpGuardrails.FailureMode, str]] = ..., metadata: _Optional[_Mapping[str, str]] = ..., allowed_request_headers: _Optional[_Iterable[str]] = ..., disallowed_request_headers: _Optional[_Iterable[str]] = ..., inline_policies: _Optional[_Iterable[_Union[BackendPolicySpec, _Mapping]]] = ...) -> None: ...
        class Processor(_message.Message):
            __slots__ = ("methods", "remote")
            class MethodsEntry(_message.Message):
                __slots__ = ("key", "value")
                KEY_FIELD_NUMBER: _ClassVar[int]
                VALUE_FIELD_NUMBER: _ClassVar[int]
                key: str
                value: BackendPolicySpec.McpGuardrails.Phase
                def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[BackendPolicySpec.McpGuardrails.Phase, str]] = ...) -> None: ...
            METHODS_FIELD_NUMBER: _ClassVar[int]
            REMOTE_FIELD_NUMBER: _ClassVar[int]
            methods: _containers.ScalarMap[str, BackendPolicySpec.McpGuardrails.Phase]
            remote: BackendPolicySpec.McpGuardrails.Remote
            def __init__(self, methods: _Optional[_Mapping[str, BackendPolicySpec.McpGuardrails.Phase]] = ..., remote: _Optional[_Union[BackendPolicySpec.McpGuardrails.Remote, _Mapping]] = ...) -> None: ...
        PROCESSORS_FIELD_NUMBER: _ClassVar[int]
        processors: _containers.RepeatedCompositeFieldContainer[BackendPolicySpec.McpGuardrails.Processor]
        def __init__(self, processors: _Optional[_Iterable[_Union[BackendPolicySpec.McpGuardrails.Processor, _Mapping]]] = ...) -> None: ...
    A2A_FIELD_NUMBER: _ClassVar[int]
    INFERENCE_ROUTING_FIELD_NUMBER: _ClassVar[int]
    BACKEND_TLS_FIELD_NUMBER: _ClassVar[int]
    AUTH_FIELD_NUMBER: _ClassVar[int]
    MCP_AUTHORIZATION_FIELD_NUMBER: _ClassVar[int]
    MCP_AUTHENTICATION_FIELD_NUMBER: _ClassVar[int]
    AI_FIELD_NUMBER: _ClassVar[int]
    REQUEST_HEADER_MODIFIER_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_HEADER_MODIFIER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_REDIRECT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_MIRROR_FIELD_NUMBER: _ClassVar[int]
    BACKEND_HTTP_FIELD_NUMBER: _ClassVar[int]
    BACKEND_TCP_FIELD_NUMBER: _ClassVar[int]
    TRANSFORMATION_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    BACKEND_TUNNEL_FIELD_NUMBER: _ClassVar[int]
    EXT_AUTHZ_FIELD_NUMBER: _ClassVar[int]
    MCP_GUARDRAILS_FIELD_NUMBER: _ClassVar[int]
    AUTHORIZATION_FIELD_NUMBER: _ClassVar[int]
    a2a: BackendPolicySpec.A2a
    inference_routing: BackendPolicySpec.InferenceRouting
    backend_tls: BackendPolicySpec.BackendTLS
    auth: BackendAuthPolicy
    mcp_authorization: BackendPolicySpec.McpAuthorization
    mcp_authentication: BackendPolicySpec.McpAuthentication
    ai: BackendPolicySpec.Ai
    request_header_modifier: HeaderModifier
    response_header_modifier: HeaderModifier
    request_redirect: RequestRedirect
    request_mirror: RequestMirrors
    backend_http: BackendPolicySpec.BackendHTTP
    backend_tcp: BackendPolicySpec.BackendTCP
    transformation: TrafficPolicySpec.TransformationPolicy
    health: BackendPolicySpec.Health
    backend_tunnel: BackendPolicySpec.BackendTunnel
    ext_authz: TrafficPolicySpec.ExternalAuth
    mcp_guardrails: BackendPolicySpec.McpGuardrails
    authorization: TrafficPolicySpec.RBAC
    def __init__(self, a2a: _Optional[_Union[BackendPolicySpec.A2a, _Mapping]] = ..., inference_routing: _Optional[_Union[BackendPolicySpec.InferenceRouting, _Mapping]] = ..., backend_tls: _Optional[_Union[BackendPolicySpec.BackendTLS, _Mapping]] = ..., auth: _Optional[_Union[BackendAuthPolicy, _Mapping]] = ..., mcp_authorization: _Optional[_Union[BackendPolicySpec.McpAuthorization, _Mapping]] = ..., mcp_authentication: _Optional[_Union[BackendPolicySpec.McpAuthentication, _Mapping]] = ..., ai: _Optional[_Union[BackendPolicySpec.Ai, _Mapping]] = ..., request_header_modifier: _Optional[_Union[HeaderModifier, _Mapping]] = ..., response_header_modifier: _Optional[_Union[HeaderModifier, _Mapping]] = ..., request_redirect: _Optional[_Union[RequestRedirect, _Mapping]] = ..., request_mirror: _Optional[_Union[RequestMirrors, _Mapping]] = ..., backend_http: _Optional[_Union[BackendPolicySpec.BackendHTTP, _Mapping]] = ..., backend_tcp: _Optional[_Union[BackendPolicySpec.BackendTCP, _Mapping]] = ..., transformation: _Optional[_Union[TrafficPolicySpec.TransformationPolicy, _Mapping]] = ..., health: _Optional[_Union[BackendPolicySpec.Health, _Mapping]] = ..., backend_tunnel: _Optional[_Union[BackendPolicySpec.BackendTunnel, _Mapping]] = ..., ext_authz: _Optional[_Union[TrafficPolicySpec.ExternalAuth, _Mapping]] = ..., mcp_guardrails: _Optional[_Union[BackendPolicySpec.McpGuardrails, _Mapping]] = ..., authorization: _Optional[_Union[TrafficPolicySpec.RBAC, _Mapping]] = ...) -> None: ...

class StaticBackend(_message.Message):
    __slots__ = ("host", "port", "unix_path")
    HOST_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    UNIX_PATH_FIELD_NUMBER: _ClassVar[int]
    host: str
    port: int
    unix_path: str
    def __init__(self, host: _Optional[str] = ..., port: _Optional[int] = ..., unix_path: _Optional[str] = ...) -> None: ...

class DynamicForwardProxy(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AwsBackend(_message.Message):
    __slots__ = ("agent_core",)
    AGENT_CORE_FIELD_NUMBER: _ClassVar[int]
    agent_core: AwsAgentCoreBackend
    def __init__(self, agent_core: _Optional[_Union[AwsAgentCoreBackend, _Mapping]] = ...) -> None: ...

class AwsAgentCoreBackend(_message.Message):
    __slots__ = ("agent_runtime_arn", "qualifier")
    AGENT_RUNTIME_ARN_FIELD_NUMBER: _ClassVar[int]
    QUALIFIER_FIELD_NUMBER: _ClassVar[int]
    agent_runtime_arn: str
    qualifier: str
    def __init__(self, agent_runtime_arn: _Optional[str] = ..., qualifier: _Optional[str] = ...) -> None: ...

class AIBackend(_message.Message):
    __slots__ = ("provider_groups",)
    class AzureResourceType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OPEN_AI: _ClassVar[AIBackend.AzureResourceType]
        FOUNDRY: _ClassVar[AIBackend.AzureResourceType]
    OPEN_AI: AIBackend.AzureResourceType
    FOUNDRY: AIBackend.AzureResourceType
    class ProviderFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        PROVIDER_FORMAT_UNSPECIFIED: _ClassVar[AIBackend.ProviderFormat]
        COMPLETIONS: _ClassVar[AIBackend.ProviderFormat]
        MESSAGES: _ClassVar[AIBackend.ProviderFormat]
        RESPONSES: _ClassVar[AIBackend.ProviderFormat]
        EMBEDDINGS: _ClassVar[AIBackend.ProviderFormat]
        ANTHROPIC_TOKEN_COUNT: _ClassVar[AIBackend.ProviderFormat]
        REALTIME: _ClassVar[AIBackend.ProviderFormat]
        RERANK: _ClassVar[AIBackend.ProviderFormat]
    PROVIDER_FORMAT_UNSPECIFIED: AIBackend.ProviderFormat
    COMPLETIONS: AIBackend.ProviderFormat
    MESSAGES: AIBackend.ProviderFormat
    RESPONSES: AIBackend.ProviderFormat
    EMBEDDINGS: AIBackend.ProviderFormat
    ANTHROPIC_TOKEN_COUNT: AIBackend.ProviderFormat
    REALTIME: AIBackend.ProviderFormat
    RERANK: AIBackend.ProviderFormat
    class ProviderPreset(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        PROVIDER_PRESET_UNSPECIFIED: _ClassVar[AIBackend.ProviderPreset]
        PROVIDER_PRESET_COHERE: _ClassVar[AIBackend.ProviderPreset]
        PROVIDER_PRESET_OLLAMA: _ClassVar[AIBackend.ProviderPreset]
        PROVIDER_PRESET_BASETEN: _ClassVar[AIBackend.ProviderPreset]
        PROVIDER_PRESET_CEREBRAS: _ClassVar[AIBackend.ProviderPreset]
        PROVIDER_PRESET_DEEPINFRA: _ClassVar[AIBackend.ProviderPreset]
        PROVIDER_PRESET_DEEPSEEK: _ClassVar[AIBackend.ProviderPreset]
        PROVIDER_PRESET_GROQ: _ClassVar[AIBackend.ProviderPreset]
        PROVIDER_PRESET_HUGGINGFACE: _ClassVar[AIBackend.ProviderPreset]
        PROVIDER_PRESET_MISTRAL: _ClassVar[AIBackend.ProviderPreset]
        PROVIDER_PRESET_OPENROUTER: _ClassVar[AIBackend.ProviderPreset]
        PROVIDER_PRESET_TOGETHERAI: _ClassVar[AIBackend.ProviderPreset]
        PROVIDER_PRESET_XAI: _ClassVar[AIBackend.ProviderPreset]
        PROVIDER_PRESET_FIREWORKS: _ClassVar[AIBackend.ProviderPreset]
    PROVIDER_PRESET_UNSPECIFIED: AIBackend.ProviderPreset
    PROVIDER_PRESET_COHERE: AIBackend.ProviderPreset
    PROVIDER_PRESET_OLLAMA: AIBackend.ProviderPreset
    PROVIDER_PRESET_BASETEN: AIBackend.ProviderPreset
    PROVIDER_PRESET_CEREBRAS: AIBackend.ProviderPreset
    PROVIDER_PRESET_DEEPINFRA: AIBackend.ProviderPreset
    PROVIDER_PRESET_DEEPSEEK: AIBackend.ProviderPreset
    PROVIDER_PRESET_GROQ: AIBackend.ProviderPreset
    PROVIDER_PRESET_HUGGINGFACE: AIBackend.ProviderPreset
    PROVIDER_PRESET_MISTRAL: AIBackend.ProviderPreset
    PROVIDER_PRESET_OPENROUTER: AIBackend.ProviderPreset
    PROVIDER_PRESET_TOGETHERAI: AIBackend.ProviderPreset
    PROVIDER_PRESET_XAI: AIBackend.ProviderPreset
    PROVIDER_PRESET_FIREWORKS: AIBackend.ProviderPreset
    class HostOverride(_message.Message):
        __slots__ = ("host", "port")
        HOST_FIELD_NUMBER: _ClassVar[int]
        PORT_FIELD_NUMBER: _ClassVar[int]
        host: str
        port: int
        def __init__(self, host: _Optional[str] = ..., port: _Optional[int] = ...) -> None: ...
    class OpenAI(_message.Message):
        __slots__ = ("model", "moderation")
        class ModerationMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            MODERATION_MODE_UNSPECIFIED: _ClassVar[AIBackend.OpenAI.ModerationMode]
            MODERATION_MODE_SCORE: _ClassVar[AIBackend.OpenAI.ModerationMode]
            MODERATION_MODE_BLOCK: _ClassVar[AIBackend.OpenAI.ModerationMode]
        MODERATION_MODE_UNSPECIFIED: AIBackend.OpenAI.ModerationMode
        MODERATION_MODE_SCORE: AIBackend.OpenAI.ModerationMode
        MODERATION_MODE_BLOCK: AIBackend.OpenAI.ModerationMode
        class Moderation(_message.Message):
            __slots__ = ("model", "policy")
            MODEL_FIELD_NUMBER: _ClassVar[int]
            POLICY_FIELD_NUMBER: _ClassVar[int]
            model: str
            policy: AIBackend.OpenAI.ModerationPolicy
            def __init__(self, model: _Optional[str] = ..., policy: _Optional[_Union[AIBackend.OpenAI.ModerationPolicy, _Mapping]] = ...) -> None: ...
        class ModerationPolicy(_message.Message):
            __slots__ = ("input", "output")
            INPUT_FIELD_NUMBER: _ClassVar[int]
            OUTPUT_FIELD_NUMBER: _ClassVar[int]
            input: AIBackend.OpenAI.ModerationConfig
            output: AIBackend.OpenAI.ModerationConfig
            def __init__(self, input: _Optional[_Union[AIBackend.OpenAI.ModerationConfig, _Mapping]] = ..., output: _Optional[_Union[AIBackend.OpenAI.ModerationConfig, _Mapping]] = ...) -> None: ...
        class ModerationConfig(_message.Message):
            __slots__ = ("mode",)
            MODE_FIELD_NUMBER: _ClassVar[int]
            mode: AIBackend.OpenAI.ModerationMode
            def __init__(self, mode: _Optional[_Union[AIBackend.OpenAI.ModerationMode, str]] = ...) -> None: ...
        MODEL_FIELD_NUMBER: _ClassVar[int]
        MODERATION_FIELD_NUMBER: _ClassVar[int]
        model: str
        moderation: AIBackend.OpenAI.Moderation
        def __init__(self, model: _Optional[str] = ..., moderation: _Optional[_Union[AIBackend.OpenAI.Moderation, _Mapping]] = ...) -> None: ...
    class Gemini(_message.Message):
        __slots__ = ("model",)
        MODEL_FIELD_NUMBER: _ClassVar[int]
        model: str
        def __init__(self, model: _Optional[str] = ...) -> None: ...
    class Vertex(_message.Message):
        __slots__ = ("model", "region", "project_id")
        MODEL_FIELD_NUMBER: _ClassVar[int]
        REGION_FIELD_NUMBER: _ClassVar[int]
        PROJECT_ID_FIELD_NUMBER: _ClassVar[int]
        model: str
        region: str
        project_id: str
        def __init__(self, model: _Optional[str] = ..., region: _Optional[str] = ..., project_id: _Optional[str] = ...) -> None: ...
    class Anthropic(_message.Message):
        __slots__ = ("model",)
        MODEL_FIELD_NUMBER: _ClassVar[int]
        model: str
        def __init__(self, model: _Optional[str] = ...) -> None: ...
    class Bedrock(_message.Message):
        __slots__ = ("model", "region", "guardrail_identifier", "guardrail_version")
        MODEL_FIELD_NUMBER: _ClassVar[int]
        REGION_FIELD_NUMBER: _ClassVar[int]
        GUARDRAIL_IDENTIFIER_FIELD_NUMBER: _ClassVar[int]
        GUARDRAIL_VERSION_FIELD_NUMBER: _ClassVar[int]
        model: str
        region: str
        guardrail_identifier: str
        guardrail_version: str
        def __init__(self, model: _Optional[str] = ..., region: _Optional[str] = ..., guardrail_identifier: _Optional[str] = ..., guardrail_version: _Optional[str] = ...) -> None: ...
    class AzureOpenAI(_message.Message):
        __slots__ = ("model", "host", "api_version", "project_name")
        MODEL_FIELD_NUMBER: _ClassVar[int]
        HOST_FIELD_NUMBER: _ClassVar[int]
        API_VERSION_FIELD_NUMBER: _ClassVar[int]
        PROJECT_NAME_FIELD_NUMBER: _ClassVar[int]
        model: str
        host: str
        api_version: str
        project_name: str
        def __init__(self, model: _Optional[str] = ..., host: _Optional[str] = ..., api_version: _Optional[str] = ..., project_name: _Optional[str] = ...) -> None: ...
    class Azure(_message.Message):
        __slots__ = ("resource_name", "resource_type", "model", "api_version", "project_name")
        RESOURCE_NAME_FIELD_NUMBER: _ClassVar[int]
        RESOURCE_TYPE_FIELD_NUMBER: _ClassVar[int]
        MODEL_FIELD_NUMBER: _ClassVar[int]
        API_VERSION_FIELD_NUMBER: _ClassVar[int]
        PROJECT_NAME_FIELD_NUMBER: _ClassVar[int]
        resource_name: str
        resource_type: AIBackend.AzureResourceType
        model: str
        api_version: str
        project_name: str
        def __init__(self, resource_name: _Optional[str] = ..., resource_type: _Optional[_Union[AIBackend.AzureResourceType, str]] = ..., model: _Optional[str] = ..., api_version: _Optional[str] = ..., project_name: _Optional[str] = ...) -> None: ...
    class ProviderFormatConfig(_message.Message):
        __slots__ = ("format", "path")
        FORMAT_FIELD_NUMBER: _ClassVar[int]
        PATH_FIELD_NUMBER: _ClassVar[int]
        format: AIBackend.ProviderFormat
        path: str
        def __init__(self, format: _Optional[_Union[AIBackend.ProviderFormat, str]] = ..., path: _Optional[str] = ...) -> None: ...
    class Custom(_message.Message):
        __slots__ = ("formats", "model", "provider_override")
        FORMATS_FIELD_NUMBER: _ClassVar[int]
        MODEL_FIELD_NUMBER: _ClassVar[int]
        PROVIDER_OVERRIDE_FIELD_NUMBER: _ClassVar[int]
        formats: _containers.RepeatedCompositeFieldContainer[AIBackend.ProviderFormatConfig]
        model: str
        provider_override: str
        def __init__(self, formats: _Optional[_Iterable[_Union[AIBackend.ProviderFormatConfig, _Mapping]]] = ..., model: _Optional[str] = ..., provider_override: _Optional[str] = ...) -> None: ...
    class Provider(_message.Message):
        __slots__ = ("name", "host_override", "path_override", "path_prefix", "base_url", "model_override", "provider_backend", "inline_policies", "openai", "gemini", "vertex", "anthropic", "bedrock", "azureopenai", "azure", "custom", "provider_preset")
        NAME_FIELD_NUMBER: _ClassVar[int]
        HOST_OVERRIDE_FIELD_NUMBER: _ClassVar[int]
        PATH_OVERRIDE_FIELD_NUMBER: _ClassVar[int]
        PATH_PREFIX_FIELD_NUMBER: _ClassVar[int]
        BASE_URL_FIELD_NUMBER: _ClassVar[int]
        MODEL_OVERRIDE_FIELD_NUMBER: _ClassVar[int]
        PROVIDER_BACKEND_FIELD_NUMBER: _ClassVar[int]
        INLINE_POLICIES_FIELD_NUMBER: _ClassVar[int]
        OPENAI_FIELD_NUMBER: _ClassVar[int]
        GEMINI_FIELD_NUMBER: _ClassVar[int]
        VERTEX_FIELD_NUMBER: _ClassVar[int]
        ANTHROPIC_FIELD_NUMBER: _ClassVar[int]
        BEDROCK_FIELD_NUMBER: _ClassVar[int]
        AZUREOPENAI_FIELD_NUMBER: _ClassVar[int]
        AZURE_FIELD_NUMBER: _ClassVar[int]
        CUSTOM_FIELD_NUMBER: _ClassVar[int]
        PROVIDER_PRESET_FIELD_NUMBER: _ClassVar[int]
        name: str
        host_override: AIBackend.HostOverride
        path_override: str
        path_prefix: str
        base_url: str
        model_override: str
        provider_backend: BackendReference
        inline_policies: _containers.RepeatedCompositeFieldContainer[BackendPolicySpec]
        openai: AIBackend.OpenAI
        gemini: AIBackend.Gemini
        vertex: AIBackend.Vertex
        anthropic: AIBackend.Anthropic
        bedrock: AIBackend.Bedrock
        azureopenai: AIBackend.AzureOpenAI
        azure: AIBackend.Azure
        custom: AIBackend.Custom
        provider_preset: AIBackend.ProviderPreset
        def __init__(self, name: _Optional[str] = ..., host_override: _Optional[_Union[AIBackend.HostOverride, _Mapping]] = ..., path_override: _Optional[str] = ..., path_prefix: _Optional[str] = ..., base_url: _Optional[str] = ..., model_override: _Optional[str] = ..., provider_backend: _Optional[_Union[BackendReference, _Mapping]] = ..., inline_policies: _Optional[_Iterable[_Union[BackendPolicySpec, _Mapping]]] = ..., openai: _Optional[_Union[AIBackend.OpenAI, _Mapping]] = ..., gemini: _Optional[_Union[AIBackend.Gemini, _Mapping]] = ..., vertex: _Optional[_Union[AIBackend.Vertex, _Mapping]] = ..., anthropic: _Optional[_Union[AIBackend.Anthropic, _Mapping]] = ..., bedrock: _Optional[_Union[AIBackend.Bedrock, _Mapping]] = ..., azureopenai: _Optional[_Union[AIBackend.AzureOpenAI, _Mapping]] = ..., azure: _Optional[_Union[AIBackend.Azure, _Mapping]] = ..., custom: _Optional[_Union[AIBackend.Custom, _Mapping]] = ..., provider_preset: _Optional[_Union[AIBackend.ProviderPreset, str]] = ...) -> None: ...
    class ProviderGroup(_message.Message):
        __slots__ = ("providers",)
        PROVIDERS_FIELD_NUMBER: _ClassVar[int]
        providers: _containers.RepeatedCompositeFieldContainer[AIBackend.Provider]
        def __init__(self, providers: _Optional[_Iterable[_Union[AIBackend.Provider, _Mapping]]] = ...) -> None: ...
    PROVIDER_GROUPS_FIELD_NUMBER: _ClassVar[int]
    provider_groups: _containers.RepeatedCompositeFieldContainer[AIBackend.ProviderGroup]
    def __init__(self, provider_groups: _Optional[_Iterable[_Union[AIBackend.ProviderGroup, _Mapping]]] = ...) -> None: ...

class MCPBackend(_message.Message):
    __slots__ = ("targets", "stateful_mode", "prefix_mode", "failure_mode")
    class StatefulMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATEFUL: _ClassVar[MCPBackend.StatefulMode]
        STATELESS: _ClassVar[MCPBackend.StatefulMode]
    STATEFUL: MCPBackend.StatefulMode
    STATELESS: MCPBackend.StatefulMode
    class PrefixMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        CONDITIONAL: _ClassVar[MCPBackend.PrefixMode]
        ALWAYS: _ClassVar[MCPBackend.PrefixMode]
        NEVER: _ClassVar[MCPBackend.PrefixMode]
    CONDITIONAL: MCPBackend.PrefixMode
    ALWAYS: MCPBackend.PrefixMode
    NEVER: MCPBackend.PrefixMode
    class FailureMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        FAIL_CLOSED: _ClassVar[MCPBackend.FailureMode]
        FAIL_OPEN: _ClassVar[MCPBackend.FailureMode]
    FAIL_CLOSED: MCPBackend.FailureMode
    FAIL_OPEN: MCPBackend.FailureMode
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    STATEFUL_MODE_FIELD_NUMBER: _ClassVar[int]
    PREFIX_MODE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_MODE_FIELD_NUMBER: _ClassVar[int]
    targets: _containers.RepeatedCompositeFieldContainer[MCPTarget]
    stateful_mode: MCPBackend.StatefulMode
    prefix_mode: MCPBackend.PrefixMode
    failure_mode: MCPBackend.FailureMode
    def __init__(self, targets: _Optional[_Iterable[_Union[MCPTarget, _Mapping]]] = ..., stateful_mode: _Optional[_Union[MCPBackend.StatefulMode, str]] = ..., prefix_mode: _Optional[_Union[MCPBackend.PrefixMode, str]] = ..., failure_mode: _Optional[_Union[MCPBackend.FailureMode, str]] = ...) -> None: ...

class MCPTarget(_message.Message):
    __slots__ = ("name", "backend", "path", "protocol")
    class Protocol(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNDEFINED: _ClassVar[MCPTarget.Protocol]
        SSE: _ClassVar[MCPTarget.Protocol]
        STREAMABLE_HTTP: _ClassVar[MCPTarget.Protocol]
    UNDEFINED: MCPTarget.Protocol
    SSE: MCPTarget.Protocol
    STREAMABLE_HTTP: MCPTarget.Protocol
    NAME_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    name: str
    backend: BackendReference
    path: str
    protocol: MCPTarget.Protocol
    def __init__(self, name: _Optional[str] = ..., backend: _Optional[_Union[BackendReference, _Mapping]] = ..., path: _Optional[str] = ..., protocol: _Optional[_Union[MCPTarget.Protocol, str]] = ...) -> None: ...

class BackendReference(_message.Message):
    __slots__ = ("port", "service", "backend", "inline")
    class Service(_message.Message):
        __slots__ = ("namespace", "hostname")
        NAMESPACE_FIELD_NUMBER: _ClassVar[int]
        HOSTNAME_FIELD_NUMBER: _ClassVar[int]
        namespace: str
        hostname: str
        def __init__(self, namespace: _Optional[str] = ..., hostname: _Optional[str] = ...) -> None: ...
    class Inline(_message.Message):
        __slots__ = ("hostname", "port")
        HOSTNAME_FIELD_NUMBER: _ClassVar[int]
        PORT_FIELD_NUMBER: _ClassVar[int]
        hostname: str
        port: int
        def __init__(self, hostname: _Optional[str] = ..., port: _Optional[int] = ...) -> None: ...
    PORT_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    INLINE_FIELD_NUMBER: _ClassVar[int]
    port: int
    service: BackendReference.Service
    backend: str
    inline: BackendReference.Inline
    def __init__(self, port: _Optional[int] = ..., service: _Optional[_Union[BackendReference.Service, _Mapping]] = ..., backend: _Optional[str] = ..., inline: _Optional[_Union[BackendReference.Inline, _Mapping]] = ...) -> None: ...

class Alpn(_message.Message):
    __slots__ = ("protocols",)
    PROTOCOLS_FIELD_NUMBER: _ClassVar[int]
    protocols: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, protocols: _Optional[_Iterable[str]] = ...) -> None: ...

class OAuthClientAuth(_message.Message):
    __slots__ = ("client_id", "client_secret", "method", "private_key_jwt")
    class Method(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNSPECIFIED: _ClassVar[OAuthClientAuth.Method]
        CLIENT_SECRET_BASIC: _ClassVar[OAuthClientAuth.Method]
        CLIENT_SECRET_POST: _ClassVar[OAuthClientAuth.Method]
        PRIVATE_KEY_JWT: _ClassVar[OAuthClientAuth.Method]
    UNSPECIFIED: OAuthClientAuth.Method
    CLIENT_SECRET_BASIC: OAuthClientAuth.Method
    CLIENT_SECRET_POST: OAuthClientAuth.Method
    PRIVATE_KEY_JWT: OAuthClientAuth.Method
    class PrivateKeyJwt(_message.Message):
        __slots__ = ("signing_key", "alg", "kid", "assertion_audience", "certificate", "certificate_header")
        class CertificateHeader(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            CERTIFICATE_HEADER_UNSPECIFIED: _ClassVar[OAuthClientAuth.PrivateKeyJwt.CertificateHeader]
            X5C: _ClassVar[OAuthClientAuth.PrivateKeyJwt.CertificateHeader]
            X5T_S256: _ClassVar[OAuthClientAuth.PrivateKeyJwt.CertificateHeader]
        CERTIFICATE_HEADER_UNSPECIFIED: OAuthClientAuth.PrivateKeyJwt.CertificateHeader
        X5C: OAuthClientAuth.PrivateKeyJwt.CertificateHeader
        X5T_S256: OAuthClientAuth.PrivateKeyJwt.CertificateHeader
        SIGNING_KEY_FIELD_NUMBER: _ClassVar[int]
        ALG_FIELD_NUMBER: _ClassVar[int]
        KID_FIELD_NUMBER: _ClassVar[int]
        ASSERTION_AUDIENCE_FIELD_NUMBER: _ClassVar[int]
        CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
        CERTIFICATE_HEADER_FIELD_NUMBER: _ClassVar[int]
        signing_key: str
        alg: JwtSigningAlg
        kid: str
        assertion_audience: str
        certificate: str
        certificate_header: OAuthClientAuth.PrivateKeyJwt.CertificateHeader
        def __init__(self, signing_key: _Optional[str] = ..., alg: _Optional[_Union[JwtSigningAlg, str]] = ..., kid: _Optional[str] = ..., assertion_audience: _Optional[str] = ..., certificate: _Optional[str] = ..., certificate_header: _Optional[_Union[OAuthClientAuth.PrivateKeyJwt.CertificateHeader, str]] = ...) -> None: ...
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_SECRET_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    PRIVATE_KEY_JWT_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    client_secret: str
    method: OAuthClientAuth.Method
    private_key_jwt: OAuthClientAuth.PrivateKeyJwt
    def __init__(self, client_id: _Optional[str] = ..., client_secret: _Optional[str] = ..., method: _Optional[_Union[OAuthClientAuth.Method, str]] = ..., private_key_jwt: _Optional[_Union[OAuthClientAuth.PrivateKeyJwt, _Mapping]] = ...) -> None: ...

class OAuthTokenExchange(_message.Message):
    __slots__ = ("token_endpoint", "token_endpoint_path", "inline_policies", "grant_type", "subject_token", "actor_token", "audiences", "scopes", "resources", "requested_token_type", "additional_params", "client_auth", "authorization_location", "cache")
    class GrantType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNSPECIFIED: _ClassVar[OAuthTokenExchange.GrantType]
        TOKEN_EXCHANGE: _ClassVar[OAuthTokenExchange.GrantType]
        JWT_BEARER: _ClassVar[OAuthTokenExchange.GrantType]
    UNSPECIFIED: OAuthTokenExchange.GrantType
    TOKEN_EXCHANGE: OAuthTokenExchange.GrantType
    JWT_BEARER: OAuthTokenExchange.GrantType
    class AdditionalParamsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class TokenSpec(_message.Message):
        __slots__ = ("source", "token_type")
        SOURCE_FIELD_NUMBER: _ClassVar[int]
        TOKEN_TYPE_FIELD_NUMBER: _ClassVar[int]
        source: AuthorizationLocation
        token_type: str
        def __init__(self, source: _Optional[_Union[AuthorizationLocation, _Mapping]] = ..., token_type: _Optional[str] = ...) -> None: ...
    class ActorToken(_message.Message):
        __slots__ = ("source", "token_type", "enforce_may_act")
        SOURCE_FIELD_NUMBER: _ClassVar[int]
        TOKEN_TYPE_FIELD_NUMBER: _ClassVar[int]
        ENFORCE_MAY_ACT_FIELD_NUMBER: _ClassVar[int]
        source: AuthorizationLocation
        token_type: str
        enforce_may_act: bool
        def __init__(self, source: _Optional[_Union[AuthorizationLocation, _Mapping]] = ..., token_type: _Optional[str] = ..., enforce_may_act: _Optional[bool] = ...) -> None: ...
    class TokenCache(_message.Message):
        __slots__ = ("in_memory",)
        class InMemory(_message.Message):
            __slots__ = ("max_entries", "default_ttl")
            MAX_ENTRIES_FIELD_NUMBER: _ClassVar[int]
            DEFAULT_TTL_FIELD_NUMBER: _ClassVar[int]
            max_entries: int
            default_ttl: _duration_pb2.Duration
            def __init__(self, max_entries: _Optional[int] = ..., default_ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...
        IN_MEMORY_FIELD_NUMBER: _ClassVar[int]
        in_memory: OAuthTokenExchange.TokenCache.InMemory
        def __init__(self, in_memory: _Optional[_Union[OAuthTokenExchange.TokenCache.InMemory, _Mapping]] = ...) -> None: ...
    TOKEN_ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_ENDPOINT_PATH_FIELD_NUMBER: _ClassVar[int]
    INLINE_POLICIES_FIELD_NUMBER: _ClassVar[int]
    GRANT_TYPE_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ACTOR_TOKEN_FIELD_NUMBER: _ClassVar[int]
    AUDIENCES_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_TOKEN_TYPE_FIELD_NUMBER: _ClassVar[int]
    ADDITIONAL_PARAMS_FIELD_NUMBER: _ClassVar[int]
    CLIENT_AUTH_FIELD_NUMBER: _ClassVar[int]
    AUTHORIZATION_LOCATION_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    token_endpoint: BackendReference
    token_endpoint_path: str
    inline_policies: _containers.RepeatedCompositeFieldContainer[BackendPolicySpec]
    grant_type: OAuthTokenExchange.GrantType
    subject_token: OAuthTokenExchange.TokenSpec
    actor_token: OAuthTokenExchange.ActorToken
    audiences: _containers.RepeatedScalarFieldContainer[str]
    scopes: _containers.RepeatedScalarFieldContainer[str]
    resources: _containers.RepeatedScalarFieldContainer[str]
    requested_token_type: str
    additional_params: _containers.ScalarMap[str, str]
    client_auth: OAuthClientAuth
    authorization_location: AuthorizationLocation
    cache: OAuthTokenExchange.TokenCache
    def __init__(self, token_endpoint: _Optional[_Union[BackendReference, _Mapping]] = ..., token_endpoint_path: _Optional[str] = ..., inline_policies: _Optional[_Iterable[_Union[BackendPolicySpec, _Mapping]]] = ..., grant_type: _Optional[_Union[OAuthTokenExchange.GrantType, str]] = ..., subject_token: _Optional[_Union[OAuthTokenExchange.TokenSpec, _Mapping]] = ..., actor_token: _Optional[_Union[OAuthTokenExchange.ActorToken, _Mapping]] = ..., audiences: _Optional[_Iterable[str]] = ..., scopes: _Optional[_Iterable[str]] = ..., resources: _Optional[_Iterable[str]] = ..., requested_token_type: _Optional[str] = ..., additional_params: _Optional[_Mapping[str, str]] = ..., client_auth: _Optional[_Union[OAuthClientAuth, _Mapping]] = ..., authorization_location: _Optional[_Union[AuthorizationLocation, _Mapping]] = ..., cache: _Optional[_Union[OAuthTokenExchange.TokenCache, _Mapping]] = ...) -> None: ...

class CrossAppAccessAuth(_message.Message):
    __slots__ = ("identity_provider", "resource_authorization_server", "audience", "resources", "scopes", "cache", "subject_token", "access_token_scopes")
    class ScopeOverride(_message.Message):
        __slots__ = ("values",)
        VALUES_FIELD_NUMBER: _ClassVar[int]
        values: _containers.RepeatedScalarFieldContainer[str]
        def __init__(self, values: _Optional[_Iterable[str]] = ...) -> None: ...
    class Endpoint(_message.Message):
        __slots__ = ("token_endpoint", "token_endpoint_path", "client_auth", "inline_policies")
        TOKEN_ENDPOINT_FIELD_NUMBER: _ClassVar[int]
        TOKEN_ENDPOINT_PATH_FIELD_NUMBER: _ClassVar[int]
        CLIENT_AUTH_FIELD_NUMBER: _ClassVar[int]
        INLINE_POLICIES_FIELD_NUMBER: _ClassVar[int]
        token_endpoint: BackendReference
        token_endpoint_path: str
        client_auth: OAuthClientAuth
        inline_policies: _containers.RepeatedCompositeFieldContainer[BackendPolicySpec]
        def __init__(self, token_endpoint: _Optional[_Union[BackendReference, _Mapping]] = ..., token_endpoint_path: _Optional[str] = ..., client_auth: _Optional[_Union[OAuthClientAuth, _Mapping]] = ..., inline_policies: _Optional[_Iterable[_Union[BackendPolicySpec, _Mapping]]] = ...) -> None: ...
    class SubjectToken(_message.Message):
        __slots__ = ("source", "token_type")
        SOURCE_FIELD_NUMBER: _ClassVar[int]
        TOKEN_TYPE_FIELD_NUMBER: _ClassVar[int]
        source: AuthorizationLocation
        token_type: str
        def __init__(self, source: _Optional[_Union[AuthorizationLocation, _Mapping]] = ..., token_type: _Optional[str] = ...) -> None: ...
    IDENTITY_PROVIDER_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_AUTHORIZATION_SERVER_FIELD_NUMBER: _ClassVar[int]
    AUDIENCE_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ACCESS_TOKEN_SCOPES_FIELD_NUMBER: _ClassVar[int]
    identity_provider: CrossAppAccessAuth.Endpoint
    resource_authorization_server: CrossAppAccessAuth.Endpoint
    audience: str
    resources: _containers.RepeatedScalarFieldContainer[str]
    scopes: _containers.RepeatedScalarFieldContainer[str]
    cache: OAuthTokenExchange.TokenCache
    subject_token: CrossAppAccessAuth.SubjectToken
    access_token_scopes: CrossAppAccessAuth.ScopeOverride
    def __init__(self, identity_provider: _Optional[_Union[CrossAppAccessAuth.Endpoint, _Mapping]] = ..., resource_authorization_server: _Optional[_Union[CrossAppAccessAuth.Endpoint, _Mapping]] = ..., audience: _Optional[str] = ..., resources: _Optional[_Iterable[str]] = ..., scopes: _Optional[_Iterable[str]] = ..., cache: _Optional[_Union[OAuthTokenExchange.TokenCache, _Mapping]] = ..., subject_token: _Optional[_Union[CrossAppAccessAuth.SubjectToken, _Mapping]] = ..., access_token_scopes: _Optional[_Union[CrossAppAccessAuth.ScopeOverride, _Mapping]] = ...) -> None: ...

class ModelRoute(_message.Message):
    __slots__ = ("key", "listener_key", "match", "ai_policy", "created", "authorization", "router_key", "virtual_model", "concrete_model")
    class Match(_message.Message):
        __slots__ = ("model",)
        MODEL_FIELD_NUMBER: _ClassVar[int]
        model: str
        def __init__(self, model: _Optional[str] = ...) -> None: ...
    class VirtualModel(_message.Message):
        __slots__ = ("weighted", "conditional", "failover")
        class Weighted(_message.Message):
            __slots__ = ("targets",)
            class Target(_message.Message):
                __slots__ = ("model", "weight")
                MODEL_FIELD_NUMBER: _ClassVar[int]
                WEIGHT_FIELD_NUMBER: _ClassVar[int]
                model: str
                weight: int
                def __init__(self, model: _Optional[str] = ..., weight: _Optional[int] = ...) -> None: ...
            TARGETS_FIELD_NUMBER: _ClassVar[int]
            targets: _containers.RepeatedCompositeFieldContainer[ModelRoute.VirtualModel.Weighted.Target]
            def __init__(self, targets: _Optional[_Iterable[_Union[ModelRoute.VirtualModel.Weighted.Target, _Mapping]]] = ...) -> None: ...
        class Conditional(_message.Message):
            __slots__ = ("targets",)
            class Target(_message.Message):
                __slots__ = ("model", "when")
                MODEL_FIELD_NUMBER: _ClassVar[int]
                WHEN_FIELD_NUMBER: _ClassVar[int]
                model: str
                when: str
                def __init__(self, model: _Optional[str] = ..., when: _Optional[str] = ...) -> None: ...
            TARGETS_FIELD_NUMBER: _ClassVar[int]
            targets: _containers.RepeatedCompositeFieldContainer[ModelRoute.VirtualModel.Conditional.Target]
            def __init__(self, targets: _Optional[_Iterable[_Union[ModelRoute.VirtualModel.Conditional.Target, _Mapping]]] = ...) -> None: ...
        class Failover(_message.Message):
            __slots__ = ("backend",)
            BACKEND_FIELD_NUMBER: _ClassVar[int]
            backend: BackendReference
            def __init__(self, backend: _Optional[_Union[BackendReference, _Mapping]] = ...) -> None: ...
        WEIGHTED_FIELD_NUMBER: _ClassVar[int]
        CONDITIONAL_FIELD_NUMBER: _ClassVar[int]
        FAILOVER_FIELD_NUMBER: _ClassVar[int]
        weighted: ModelRoute.VirtualModel.Weighted
        conditional: ModelRoute.VirtualModel.Conditional
        failover: ModelRoute.VirtualModel.Failover
        def __init__(self, weighted: _Optional[_Union[ModelRoute.VirtualModel.Weighted, _Mapping]] = ..., conditional: _Optional[_Union[ModelRoute.VirtualModel.Conditional, _Mapping]] = ..., failover: _Optional[_Union[ModelRoute.VirtualModel.Failover, _Mapping]] = ...) -> None: ...
    class ConcreteModel(_message.Message):
        __slots__ = ("model_visibility", "backend", "backend_policies")
        class ModelVisibility(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
            __slots__ = ()
            PUBLIC: _ClassVar[ModelRoute.ConcreteModel.ModelVisibility]
            INTERNAL: _ClassVar[ModelRoute.ConcreteModel.ModelVisibility]
        PUBLIC: ModelRoute.ConcreteModel.ModelVisibility
        INTERNAL: ModelRoute.ConcreteModel.ModelVisibility
        MODEL_VISIBILITY_FIELD_NUMBER: _ClassVar[int]
        BACKEND_FIELD_NUMBER: _ClassVar[int]
        BACKEND_POLICIES_FIELD_NUMBER: _ClassVar[int]
        model_visibility: ModelRoute.ConcreteModel.ModelVisibility
        backend: BackendReference
        backend_policies: _containers.RepeatedCompositeFieldContainer[BackendPolicySpec]
        def __init__(self, model_visibility: _Optional[_Union[ModelRoute.ConcreteModel.ModelVisibility, str]] = ..., backend: _Optional[_Union[BackendReference, _Mapping]] = ..., backend_policies: _Optional[_Iterable[_Union[BackendPolicySpec, _Mapping]]] = ...) -> None: ...
    KEY_FIELD_NUMBER: _ClassVar[int]
    LISTENER_KEY_FIELD_NUMBER: _ClassVar[int]
    MATCH_FIELD_NUMBER: _ClassVar[int]
    AI_POLICY_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    AUTHORIZATION_FIELD_NUMBER: _ClassVar[int]
    ROUTER_KEY_FIELD_NUMBER: _ClassVar[int]
    VIRTUAL_MODEL_FIELD_NUMBER: _ClassVar[int]
    CONCRETE_MODEL_FIELD_NUMBER: _ClassVar[int]
    key: str
    listener_key: str
    match: ModelRoute.Match
    ai_policy: BackendPolicySpec.Ai
    created: int
    authorization: TrafficPolicySpec.RBAC
    router_key: str
    virtual_model: ModelRoute.VirtualModel
    concrete_model: ModelRoute.ConcreteModel
    def __init__(self, key: _Optional[str] = ..., listener_key: _Optional[str] = ..., match: _Optional[_Union[ModelRoute.Match, _Mapping]] = ..., ai_policy: _Optional[_Union[BackendPolicySpec.Ai, _Mapping]] = ..., created: _Optional[int] = ..., authorization: _Optional[_Union[TrafficPolicySpec.RBAC, _Mapping]] = ..., router_key: _Optional[str] = ..., virtual_model: _Optional[_Union[ModelRoute.VirtualModel, _Mapping]] = ..., concrete_model: _Optional[_Union[ModelRoute.ConcreteModel, _Mapping]] = ...) -> None: ...
