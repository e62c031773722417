"""report/: the pages that a person opens first. They open from disk, without a server and without the network.

One role a file: `model` reads what a run left, `picks` chooses which images are shown, `thumbnails` makes their small
pictures in one pass over the stored pixels, `pictures` those of centers and components, `sprites` lays them out,
`plots` draws curves, `scatter` places the map, with the optional `libraries`, `lists` and `search` write the long lists
that pages load piece by piece, `pages` fills the templates, and `write` puts it all in place.
"""
