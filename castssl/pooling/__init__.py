"""Tokens become fewer (plugin door ``castssl.pooling``)."""
