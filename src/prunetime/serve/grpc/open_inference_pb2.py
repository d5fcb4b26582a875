"""The messages of the Open Inference Protocol, made of the descriptors that `make proto` writes."""

from importlib.resources import files

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_content = (files("prunetime.serve.grpc") / "open_inference.binpb").read_bytes()
(_file,) = descriptor_pb2.FileDescriptorSet.FromString(_content).file
DESCRIPTOR = descriptor_pool.Default().AddSerializedFile(_file.SerializeToString())
for _name, _message in DESCRIPTOR.message_types_by_name.items():
    globals()[_name] = message_factory.GetMessageClass(_message)
