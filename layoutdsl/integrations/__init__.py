"""Where layoutdsl meets other systems: one package per system, above the public face, imported only by that system."""
