"""The thing we ship: a plan says what to do with a layer's tensors, never how. Data, its canonical JSON, binding to sizes. Neither torch nor the parsers."""
