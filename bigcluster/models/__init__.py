"""This package finds or downloads pretrained networks, reads them safely and runs them on one picture at a time.

A network turns a picture into a vector, its features. The package takes pictures as arrays and neither stores nor lists
them, which `stages` does. It imports `files`, `kernels` and `runtime`. Begin with network.py. The steps are:

1. registry.py knows the networks that have a name (registry.toml), and recognizes their files.
2. source.py finds and reads the file of a network; fetch.py finds it on this machine, or downloads it and checks its
   digest.
3. onnx_file.py reads it (protobuf.py has the format of its bytes) and refuses what is not safe. weight_files.py reads
   the files of its weights, and beside.py says which files it may name. onnx_graph.py has what was read.
4. graph.py finds the image input and the tensor whose values become features, and removes the nodes behind it.
5. preprocess.py reads how pictures are resized and scaled.
6. session.py loads the network into ONNX Runtime, and pooling.py makes a vector from the tensor. processor.py names
   the class of the processor, on which the last bits of features depend. trial.py loads an unknown network in a child
   process first.

listing.py makes the lists that `bigcluster models` prints.
"""

from bigcluster.models.listing import images_per_second, list_networks, show_network
from bigcluster.models.network import (
    ClassProbability,
    Description,
    MemoryUse,
    Network,
    NoFeaturesError,
    Options,
    open_network,
)
from bigcluster.models.processor import cpu_class
from bigcluster.models.source import digest_of_network

__all__ = [
    "ClassProbability",
    "Description",
    "MemoryUse",
    "Network",
    "NoFeaturesError",
    "Options",
    "cpu_class",
    "digest_of_network",
    "images_per_second",
    "list_networks",
    "open_network",
    "show_network",
]
