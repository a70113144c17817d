"""From the knowledge base to a GGUF: one module per stage, path in, path out, a manifest beside each artefact.

The order of the stages is the `train-mini` target of the Makefile.
"""
