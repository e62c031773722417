"""This module has the command `models`, which lists the networks that have a name, and shows the tensors of one."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bigcluster.cli.answers import listening, stdout, tell
from bigcluster.cli.options import AsJson, Quiet
from bigcluster.units import printable, show_bytes

app = typer.Typer(
    name="models",
    help="List the pretrained networks, or show what can be taken from one of them.",
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def models(context: typer.Context, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """List the pretrained networks: licence, size, whether the file is on this machine, and images a second here.

    Nothing is downloaded. `bigcluster models show NAME` shows the tensors of one network.
    """
    if context.invoked_subcommand is not None:
        return
    from bigcluster import api

    networks = api.list_models(measure=not quiet or as_json)
    tell({"models": networks}, as_json, lambda: _print_list(networks), quiet=quiet, in_files=False)


@app.command()
def show(
    model: Annotated[str, typer.Argument(metavar="NAME|FILE", help="A name of the list, or the path of an ONNX file.")],
    size: Annotated[
        str | None, typer.Option(help="The size of the input, 224 or WIDTHxHEIGHT, of a network that takes any.")
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="models.offline=true: download nothing."),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Show the input of a network, and every tensor that can be taken from it, with its shape.

    The file of a name is downloaded where it is not on this machine.
    """
    from bigcluster import api

    with listening(quiet=quiet) as listener:
        network = api.show_model(model, size=size, set=sets, listener=listener)
    tell(network, as_json, lambda: _print_network(network), quiet=quiet, in_files=False)


def _cell(value: str) -> Any:
    """Return a cell that shows a text unchanged, even where rich would read it as markup."""
    from rich.text import Text

    return Text(printable(value))


def _print_list(networks: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table("name", "licence", "size", "on this machine", "images/s", "what it is")
    for network in networks:
        n_bytes, speed = network["bytes"], network["images_per_second"]
        stored = "yes" if network["file"] else "no" if network["can_be_fetched"] else "no; bring the file"
        cells = [
            network["name"],
            network["licence"],
            "?" if n_bytes is None else show_bytes(n_bytes),
            "cannot be used" if network["fault"] else stored,
            "" if speed is None else f"{speed:,.0f}",
            network["about"],
        ]
        table.add_row(*map(_cell, cells))
    stdout().print(table)
    for network in networks:
        for line in filter(None, (network["fault"], network["note"])):
            print(printable(f"{network['name']}: {line}"))


def _print_network(network: dict[str, Any]) -> None:
    from rich.table import Table

    image, preprocessing, default = network["input"], network["preprocessing"], network["default"]
    mean, std = (", ".join(f"{level:g}" for level in preprocessing[name]) for name in ("mean", "std"))
    lines = [
        f"{network['name']}: {network['file']}, {show_bytes(network['bytes'])}, licence {network['licence']}",
        f"SHA-256 {network['sha256']}",
        f"input {image['name']}: {image['width']} x {image['height']} pixels, {image['dtype']}, {image['layout']}",
        f"prepared as {preprocessing['from']} says: {preprocessing['resize']}, {preprocessing['order']}, mean {mean}, "
        f"std {std}",
        f"default tensor {default['layer']}: {default['why']}",
        f"classes from {network['classifier']}" if network["classifier"] else "no classifier",
    ]
    for line in filter(None, [*lines, network["note"]]):
        print(printable(line))
    table = Table("tensor", "operator", "shape", "features", "pool", "")
    for tensor in network["tensors"]:
        shape = " x ".join(map(str, tensor["shape"]))
        cells = [tensor["name"], tensor["operator"], shape, str(tensor["n_features"]), tensor["pool"]]
        table.add_row(*map(_cell, cells), "default" if tensor["is_default"] else "")
    stdout().print(table)
