"""Text to tree: YAML with exact positions, the expression grammar, and the document they make together.

Nothing here knows what a name means; ``layoutdsl.compiler`` gives it one.
"""
