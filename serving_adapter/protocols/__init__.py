"""The wire protocols. None holds logic: decode, infer, encode."""
