"""Files of this machine, and nothing about clustering: replaced whole, read up to a limit, found without links.

It imports `errors` and `units`. Begin with durable.py (how a file of ours is written), then bounded.py (how a file of
a stranger is read).
"""
