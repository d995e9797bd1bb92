"""Objectives of castssl by lightly's losses and heads: lightly computes, castssl's contract carries."""
