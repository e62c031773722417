"""What people get beside the report: labels.csv, images.csv, summary.json, curves and the folders of clusters/.

It imports `outdir`, `stages` and what lies below. Begin with tables.py, then folders.py.
"""
