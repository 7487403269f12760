"""A client of a running Marquee made from its reflected protos: no generated code, no protos at hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

TIMEOUT_S = 20.0


class Service:
    """Unary calls of one service: `Service(channel, "EventService").RecordEvents(events=[...])`."""

    def __init__(
        self,
        channel: grpc.Channel,
        name: str,
        metadata: list[tuple[str, str]] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._channel, self._metadata, self._timeout_s = channel, metadata, timeout_s
        self._methods = DescriptorPool(ProtoReflectionDescriptorDatabase(channel)).FindServiceByName(
            f"marquee.v1.{name}"
        )
        self._calls: dict[str, Callable[..., Any]] = {}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in self._calls:
            self._calls[name] = self._call(name)
        return self._calls[name]

    def _call(self, name: str) -> Callable[..., Any]:
        method = self._methods.methods_by_name[name]
        request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        call = self._channel.unary_unary(
            f"/{self._methods.full_name}/{name}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        return lambda **fields: call(request(**fields), timeout=self._timeout_s, metadata=self._metadata)


def connect(address: str) -> grpc.Channel:
    """A channel that is ready; waits for a server that just starts."""
    channel = grpc.insecure_channel(address)
    grpc.channel_ready_future(channel).result(timeout=60.0)
    return channel
