"""Pretrained networks: found or downloaded, read safely, and run on one picture at a time.

What a network says of a picture is a vector, its features. This package knows pictures as arrays, and neither stores
nor lists them; stages does. It imports `files`, `kernels` and `runtime`. Begin with network.py. The way of a network:

1. registry.py knows the networks that have a name (registry.toml), and recognizes their files.
2. fetch.py finds a file on this machine, or downloads it and checks its digest.
3. onnx_file.py reads it (protobuf.py has the format of its bytes) and refuses what is not safe. weight_files.py reads
   the files of its weights, and beside.py says which files it may name. onnx_graph.py has what was read.
4. graph.py finds the image input and the tensor to take, and prunes what follows it.
5. preprocess.py reads how pictures are scaled.
6. session.py loads it into ONNX Runtime; pooling.py makes a vector of its tensor; processor.py names the class of the
   processor, on which the last bits depend.

listing.py has what `bigcluster models` prints.
"""

from bigcluster.models.listing import images_per_second, list_networks, show_network
from bigcluster.models.network import ClassProbability, MemoryUse, Network, NoFeaturesError, Options, Seen, open_network

__all__ = [
    "ClassProbability",
    "MemoryUse",
    "Network",
    "NoFeaturesError",
    "Options",
    "Seen",
    "images_per_second",
    "list_networks",
    "open_network",
    "show_network",
]
