"""The CPU engine that runs a GGUF model. `llama.py` is the only module that imports llama_cpp."""
