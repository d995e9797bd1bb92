"""What H-CAST is compared with: objectives of other papers on label trees, and CLIP as an encoder."""
