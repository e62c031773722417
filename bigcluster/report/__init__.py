"""report/: the pages that a person opens first. They open from disk, without a server and without the network.

One role a file: `model` reads what a run left, `picks` chooses which images are shown, `thumbnails` makes their small
pictures in one pass over the stored pixels, `pictures` those of centers and components, `sprites` lays them out,
`plots` draws curves, `scatter` places the map, `lists` and `search` write the long lists that pages load piece by
piece, `pages` fills the templates, and `write` puts it all in place.
"""

from bigcluster.report.scatter import check_kind
from bigcluster.report.write import FOLDER, Allowance, is_current, write_report

__all__ = ["FOLDER", "Allowance", "check_kind", "is_current", "write_report"]
