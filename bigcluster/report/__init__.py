"""The pages of OUT/report, which a person opens first. They open from disk, without a server and without the network.

It imports `outputs`, `stages` and what lies below. Begin with write.py, which calls all the others. model.py reads what
the run left. lists.py chooses the images that are shown, and writes the long lists that pages load piece by piece.
thumbnails.py makes the small pictures in one pass over the stored pixels, pictures.py makes those of centers and
components, scatter.py places the points of the map, and plots.py draws curves. cluster_page.py and pages.py fill the
templates.
"""
