"""A checkpoint folder as it is: which tensors its files hold, which layers they belong to and under which scheme, and whether these fit their specs.

Between the command line (``check``, ``diff``, ``new``) and the compiler, whose plans say what a layer must have. Headers and JSON are read without torch;
only what reads values imports numpy or torch.
"""
