"""Who is in the mesh and how each is reached: records, a store of them, and choices."""

from istio.workload.records import Endpoint, GatewayAddress, Place, Service, Workload
from istio.workload.store import Store
from istio.workload.waypoint import OwnGateway, Reached

__all__ = [
    "Endpoint",
    "GatewayAddress",
    "OwnGateway",
    "Place",
    "Reached",
    "Service",
    "Store",
    "Workload",
]
