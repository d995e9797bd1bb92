"""Many labels per image: label embeddings that attend to the stages of an encoder."""
