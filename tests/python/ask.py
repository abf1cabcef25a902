"""Asks an lb-sync as others would: with gRPC's own health and reflection clients. Prints a line for each answer.

Usage: ask.py HOST:PORT SERVICE; watches SERVICE until its input is closed.
"""
import sys
import threading

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

addr, service = sys.argv[1:]
channel = grpc.insecure_channel(addr)
health = health_pb2_grpc.HealthStub(channel)
name = health_pb2.HealthCheckResponse.ServingStatus.Name


def say(text):
    print(text, flush=True)


for asked in ["", service, "unknown"]:
    try:
        status = health.Check(health_pb2.HealthCheckRequest(service=asked), timeout=5).status
        say(f"check {asked!r}: {name(status)}")
    except grpc.RpcError as error:
        say(f"check {asked!r}: {error.code().name}")
if hasattr(health, "List"):
    statuses = health.List(health_pb2.HealthListRequest(), timeout=5).statuses
    say("list: " + ", ".join(f"{it!r} {name(status.status)}" for it, status in sorted(statuses.items())))
database = ProtoReflectionDescriptorDatabase(channel)
say("reflection: " + ", ".join(sorted(database.get_services())))
# The client knows the older name only; the messages are the same.
newer = channel.stream_stream(
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
    response_deserializer=reflection_pb2.ServerReflectionResponse.FromString)
answers = list(newer(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=5))
say("reflection v1: " + ", ".join(sorted(it.name for it in answers[0].list_services_response.service)))
say("methods: " + ", ".join(m.name for m in database.FindFileContainingSymbol("leasehold.v1.Registry").service[0].method))

watch = health.Watch(health_pb2.HealthCheckRequest(service=service))
threading.Thread(target=lambda: (sys.stdin.read(), watch.cancel()), daemon=True).start()
try:
    for answer in watch:
        say(f"watch {service!r}: {name(answer.status)}")
except grpc.RpcError as error:
    say(f"watch ended: {error.code().name}")
