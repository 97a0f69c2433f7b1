"""``delete: a, b``: names leave the layer.

A step of its own, not a stage: it binds nothing. Reading a deleted name later is an error, and a parameter that is deleted is gone from ``plan.run``'s results.
"""

SUMMARY = "remove names from the layer"
